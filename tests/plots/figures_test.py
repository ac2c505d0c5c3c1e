"""Figures show the numbers they were given."""

import math

import numpy as np
import pytest

from rsfm_jax.plots import curves
from rsfm_jax.plots import feature_maps
from rsfm_jax.plots import pruning_curve
from rsfm_jax.plots import reconstructions
from rsfm_jax.plots import routing
from rsfm_jax.plots import scaling
from rsfm_jax.sensors import catalogue

OPT = catalogue.get('opt')
ROWS = [
  {
    'step': step,
    'loss': 2.0 / step,
    'losses/opt': 1.0 / step,
    'losses/ms': 0.5,
    'losses/balance': 4.0,
    'lr': 1e-3,
    'grad_norm': None if step == 2 else 3.0,
    'routing/entropy': [[[1.0, 0.2]], [[3.0, 0.4]]],
    'routing/specialised_load': [[[0.25 * step, 1 - 0.25 * step]]],
  }
  for step in (1, 2, 3)
]


def titles(figure):
  return [axes.get_title(loc='left') for axes in figure.axes if axes.lines]


def test_only_panels_with_data_are_drawn():
  figure = curves.figure(ROWS)
  assert titles(figure) == [
    'Loss per sensor',
    'Total loss',
    'Learning rate',
    'Gradient norm before clipping',
  ]


def test_sensors_are_told_apart_and_other_losses_kept_out():
  lines = curves.series(ROWS, curves.TRAINING[0])
  assert sorted(lines) == ['ms', 'opt']
  np.testing.assert_allclose(
    lines['opt'], [[1, 1.0], [2, 0.5], [3, 1 / 3]], rtol=1e-6
  )


def test_a_value_that_was_not_finite_is_a_gap():
  points = curves.series(ROWS, curves.TRAINING[3])['grad_norm']
  np.testing.assert_array_equal(points[:, 1], [3.0, np.nan, 3.0])


def test_arrays_are_averaged_over_layers_and_sensors():
  panel = next(p for p in curves.ROUTING if p.parts and 'entropy' in p.pattern)
  lines = curves.series(ROWS, panel)
  np.testing.assert_allclose(lines['specialised'][:, 1], 2.0)
  np.testing.assert_allclose(lines['collaborative'][:, 1], 0.3)


def test_probes_of_a_run_are_lines_over_its_steps():
  rows = [*ROWS, {'step': 2, 'eval/a/knn/accuracy': 0.5}]
  figure = curves.figure(rows, panels=curves.TRAINING)
  assert titles(figure)[-1] == 'Probes of frozen features'
  points = curves.series(rows, curves.TRAINING[-1])
  np.testing.assert_array_equal(points['a/knn/accuracy'], [[2, 0.5]])
  assert curves.TRAINING[-1] in curves.DISTILLATION


def test_a_run_without_metrics_is_an_error():
  with pytest.raises(ValueError, match='1 rows hold none of .*grad_norm'):
    curves.figure([{'step': 1, 'other': 2}])


def test_the_running_mean_is_flat_on_a_constant_and_skips_gaps():
  values = np.full(50, 3.0)
  values[[0, 20]] = np.nan
  np.testing.assert_allclose(curves.running_mean(values, 7), 3.0)
  assert np.isnan(curves.running_mean(np.full(9, np.nan), 3)).all()


def test_long_curves_keep_their_raw_line():
  rows = [{'step': i, 'loss': 1.0 + i % 2} for i in range(1, 301)]
  (axes,) = curves.figure(rows).axes
  raw, smooth = axes.lines
  np.testing.assert_array_equal(np.unique(raw.get_ydata()), [1.0, 2.0])
  assert np.ptp(smooth.get_ydata()[20:-20]) < 0.3


def test_routing_is_averaged_over_the_last_rows():
  got = routing.recent(ROWS, last=2)
  assert sorted(got) == ['entropy', 'specialised_load']
  np.testing.assert_allclose(got['specialised_load'], [[[0.625, 0.375]]])
  assert routing.recent([{'step': 1, 'loss': 2.0}]) == {}


def test_a_load_map_shows_every_cell():
  load = np.arange(2 * 3 * 4.0).reshape(2, 3, 4) / 100
  sensors = ('opt', 'sar_l1', 'ms')
  figure = routing.load(load, sensors=sensors, title='Specialised')
  for i, sensor in enumerate(sensors):
    axes = figure.axes[i]
    assert axes.get_title(loc='left') == sensor
    np.testing.assert_array_equal(axes.images[0].get_array(), load[:, i])
    assert len(axes.texts) == 8


def test_many_experts_get_no_numbers_in_cells():
  figure = routing.load(np.ones((2, 1, 64)), sensors=('opt',), title='t')
  assert not figure.axes[0].texts


def test_load_and_sensors_must_fit():
  with pytest.raises(ValueError, match=r'\(2, 3, 4\).*M=2'):
    routing.load(np.ones((2, 3, 4)), sensors=('opt', 'ms'), title='t')


def test_layers_are_compared_with_what_theory_allows():
  figure = routing.by_layer(
    np.ones((6, 2)),
    sensors=('opt', 'ms'),
    experts=4,
    mutual_information=np.full(6, 0.1),
  )
  left, right = figure.axes
  assert left.lines[-1].get_ydata()[0] == pytest.approx(math.log(4))
  assert right.lines[-1].get_ydata()[0] == pytest.approx(math.log(2))
  assert [bar.get_height() for bar in right.patches] == [0.1] * 6


MODELS = [
  {'name': 'all', 'parameters': 9e6, 'accuracy': 0.8, 'images_per_second': 300},
  {'name': 'opt', 'parameters': 5e6, 'accuracy': 0.8, 'images_per_second': 400},
  {
    'name': 'dense',
    'parameters': 1e6,
    'accuracy': 0.7,
    'images_per_second': 900,
    'low': 0.65,
    'high': 0.74,
  },
]


def test_the_pruning_line_joins_models_that_nothing_cheaper_equals():
  size, speed = pruning_curve.figure(MODELS, metric='20-NN accuracy').axes
  assert list(size.lines[0].get_xdata()) == [1e6, 5e6]
  assert list(speed.lines[0].get_xdata()) == [900, 400]
  assert size.get_ylabel() == '20-NN accuracy'


def test_an_interval_need_not_be_symmetric():
  size, _ = pruning_curve.figure(MODELS).axes
  low, high = size.collections[-1].get_segments()[0][:, 1]
  assert (low, high) == pytest.approx((0.65, 0.74))


@pytest.mark.parametrize(
  'rows, message',
  [([], 'at least one model'), ([{'name': 'a'}], "'a' lacks .*'parameters'")],
)
def test_incomplete_pruning_rows_are_named(rows, message):
  with pytest.raises(ValueError, match=message):
    pruning_curve.figure(rows)


def swept(rule, experts, accuracy, sensor='opt'):
  return {
    'sensor': sensor,
    'dataset': 'scenes',
    'protocol': 'linear',
    'rule': rule,
    'experts': experts,
    'accuracy': accuracy,
    'low': accuracy - 0.1,
    'high': accuracy + 0.1,
  }


def test_a_sweep_has_a_panel_per_sensor_and_a_line_per_rule():
  points = [swept('use', 1, 0.5), swept('random', 1, 0.4)]
  points += [swept('use', 4, 0.8), swept('use', 2, 0.3, 'ms')]
  opt, ms = pruning_curve.sweep(points).axes
  assert opt.get_title(loc='left') == 'opt, scenes, linear'
  line = opt.lines[0]
  assert list(line.get_xdata()) == [1, 4]
  assert list(line.get_ydata()) == [0.5, 0.8]
  assert ms.get_title(loc='left') == 'ms, scenes, linear'
  with pytest.raises(ValueError, match='at least one point'):
    pruning_curve.sweep([])


def scaled(series, chips, rate, mfu=0.4):
  return {
    'series': series,
    'chips': chips,
    'images_per_second': rate,
    'mfu': mfu,
  }


def test_scaling_is_drawn_against_the_smallest_slice_of_its_series():
  rows = [scaled('weak', 64, 380.0), scaled('weak', 16, 100.0)]
  speed, use = scaling.figure([*rows, scaled('strong', 16, None)]).axes
  even, measured = speed.lines
  assert list(measured.get_xdata()) == [16, 64]
  assert list(measured.get_ydata()) == [100, 380]
  assert list(even.get_ydata()) == [100, 400]
  assert list(use.lines[0].get_ydata()) == [40, 40]


@pytest.mark.parametrize(
  'rows, message',
  [([scaled('weak', 4, None)], 'an estimate'), ([{'case': 'a'}], "'a' lacks")],
)
def test_incomplete_scaling_rows_are_named(rows, message):
  with pytest.raises(ValueError, match=message):
    scaling.figure(rows)


def test_components_are_shared_ordered_and_repeatable():
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(2, 8, 8, 3)) * [9.0, 3.0, 1.0]
  features = hidden @ np.linalg.qr(rng.normal(size=(5, 5)))[0][:3]
  colour = feature_maps.pca_rgb(features)
  assert colour.shape == (2, 8, 8, 3)
  assert colour.min() == 0.0 and colour.max() == 1.0
  for i in range(3):  # Each colour is one hidden factor, up to its sign.
    correlation = np.corrcoef(colour[..., i].ravel(), hidden[..., i].ravel())
    assert abs(correlation[0, 1]) > 0.9
  np.testing.assert_array_equal(colour, feature_maps.pca_rgb(features))


def test_constant_features_are_one_colour():
  assert np.ptp(feature_maps.pca_rgb(np.ones((1, 4, 4, 8)))) == 0


def test_two_features_make_no_colour():
  with pytest.raises(ValueError, match='2 dimensions; colour needs 3'):
    feature_maps.pca_rgb(np.ones((1, 4, 4, 2)))


def picture(figure):
  return np.asarray(figure.axes[0].images[0].get_array())


def test_feature_maps_put_the_models_below_the_images():
  images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3))
  figure = feature_maps.figure(
    images, {'random': images[:, ::4, ::4], 'trained': images}, sensor=OPT
  )
  labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
  assert labels == ['input', 'random', 'trained']
  assert picture(figure).shape == (3 * 19 - 3, 2 * 19 - 3, 4)


def test_reconstructions_hide_what_was_hidden_and_show_what_was_predicted():
  images = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3))
  masks = np.array([[[True, False], [False, False]]])
  figure = reconstructions.figure(
    images, masks, np.full_like(images, 1e4), sensor=OPT
  )
  given, masked, made = (picture(figure)[i : i + 8] for i in (0, 11, 22))
  assert (masked[:4, :4, 3] == 0).all() and (masked[4:, :, 3] == 1).all()
  assert (made[:4, :4] == 1).all()  # Brighter than white, on the input's scale.
  np.testing.assert_array_equal(made[4:], given[4:])
  np.testing.assert_array_equal(made[:, 4:], given[:, 4:])


def test_complex_sar_is_compared_as_power():
  rng = np.random.default_rng(0)
  iq = rng.normal(size=(2, 8, 8, 8))
  power = (iq**2).sum(-1, keepdims=True)
  masks = np.ones((2, 2, 2), bool)
  sensor = catalogue.get('sar_l1')
  as_power = reconstructions.figure(iq, masks, power, sensor=sensor)
  as_iq = reconstructions.figure(iq, masks, iq, sensor=sensor)
  np.testing.assert_allclose(picture(as_power), picture(as_iq), atol=1e-5)
  np.testing.assert_allclose(picture(as_iq)[22:], picture(as_iq)[:8], atol=1e-5)
  title = as_iq.axes[0].get_title(loc='left')
  assert title == 'sar_l1 (total power, dB)'


def test_as_many_masks_as_images():
  with pytest.raises(ValueError, match='opt: 2 images, 1 masks'):
    reconstructions.figure(
      np.ones((2, 8, 8, 3)),
      np.ones((1, 2, 2)),
      np.ones((2, 8, 8, 3)),
      sensor=OPT,
    )
