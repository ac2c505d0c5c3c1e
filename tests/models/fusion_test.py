"""Fusion: counts, what does not count, series, subsets, grids, days."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import fusion
from rsfm_jax.sharding import mesh as meshes

FLOAT32 = 3e-6
WIDTH, DIM = 6, 8
UPSAMPLE = {'fine': 1, 'coarse': 2, 'radar': 2}
HUGE = {'opt': 1, 'sentinel2_skysense': 4, 'sentinel1_grd': 4}


def model(upsample=None, **options):
  """A fusion whose tables and matrices have a size."""
  made = fusion.Fusion(
    WIDTH,
    DIM,
    2,
    2,
    upsample=UPSAMPLE if upsample is None else upsample,
    key=jax.random.key(0),
    std=None,
    **options,
  )
  if made.days is not None:
    made.days[...] = 50 * made.days[...]
  return nnx.split(made)


@functools.partial(jax.jit, static_argnums=0)
def fuse(graphdef, state, features, date_valid=None, days=None, key=None):
  made = nnx.merge(graphdef, state)
  return made(features, date_valid=date_valid, days=days, key=key)


def inputs(batch=2, dates=(1, 3, 2), seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda t, size: jnp.asarray(
    rng.standard_normal((batch, t, size, size, WIDTH)), 'float32'
  )
  return {
    'fine': draw(dates[0], 4),
    'coarse': draw(dates[1], 2),
    'radar': draw(dates[2], 2),
  }


def count(upsample, **options):
  make = lambda: fusion.Fusion(
    2816, 1024, 24, 16, upsample=upsample, key=jax.random.key(0), **options
  )
  return trees.count(nnx.to_pure_dict(nnx.state(nnx.eval_shape(make))))


def test_parameters_at_huge_are_those_of_the_facts():
  # One projection, the token, 24 layers.
  assert count({'one': 1}, dated=()) == 305_195_008
  # A projection per sensor, two bridges of 4x, codes of 365 days.
  assert count(HUGE) == 344_925_184


def test_dates_that_do_not_count_change_no_bit():
  graphdef, state = model()
  features = inputs(dates=(2, 3, 2))
  days = {s: np.full(x.shape[:2], 40, 'int32') for s, x in features.items()}
  valid = {s: np.ones(x.shape[:2], bool) for s, x in features.items()}
  valid['fine'][0, 1] = valid['coarse'][0, :2] = valid['radar'][1] = False

  @jax.jit
  def run(state, features, days):
    def loss(state, features):
      made = nnx.merge(graphdef, state)
      y = made(features, date_valid=valid, days=days)
      return jnp.square(y).sum(), y

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(state, features)

  spoil = lambda x, valid: jnp.where(valid[:, :, None, None, None], x, jnp.nan)
  dirty = jax.tree.map(spoil, features, valid)
  other_days = jax.tree.map(
    lambda d, valid: np.where(valid, d, 999).astype('int32'), days, valid
  )
  clean, spoilt = run(state, features, days), run(state, dirty, other_days)
  for a, b in zip(*map(jax.tree.leaves, (clean, spoilt)), strict=True):
    assert np.isfinite(a).all()
    np.testing.assert_array_equal(a, b)


def test_padding_a_series_is_a_shorter_series():
  graphdef, state = model()
  features = inputs(dates=(1, 5, 3))
  valid = {
    'coarse': np.array([[1, 0, 1, 1, 0]] * 2, bool),
    'radar': np.array([[0, 0, 0]] * 2, bool),
  }
  short = {
    'fine': features['fine'],
    'coarse': features['coarse'][:, np.array([0, 2, 3])],
  }
  y = fuse(graphdef, state, features, valid)
  np.testing.assert_allclose(y, fuse(graphdef, state, short), atol=FLOAT32)


@pytest.mark.parametrize(
  ('sensors', 'size'),
  [
    (('fine',), 4),
    (('coarse',), 2),
    (('radar', 'coarse'), 2),
    (('fine', 'radar'), 4),
  ],
)
def test_any_subset_comes_out_on_its_finest_grid(sensors, size):
  graphdef, state = model()
  features = {s: x for s, x in inputs().items() if s in sensors}
  y = fuse(graphdef, state, features)
  assert y.shape == (2, size, size, DIM)
  turned = {s: features[s] for s in reversed(features)}
  np.testing.assert_array_equal(fuse(graphdef, state, turned), y)


def test_a_single_image_needs_no_axis_of_dates():
  graphdef, state = model()
  features = inputs()
  one = features | {'fine': features['fine'][:, 0]}
  np.testing.assert_array_equal(
    fuse(graphdef, state, one), fuse(graphdef, state, features)
  )


def test_locations_do_not_mix():
  graphdef, state = model()
  features = inputs()
  moved = features | {'fine': features['fine'].at[0, 0, 1, 2].add(1.0)}
  change = fuse(graphdef, state, moved) - fuse(graphdef, state, features)
  change = np.abs(change).max(-1)
  assert change[0, 1, 2] > 1e-3
  assert (change > 0).sum() == 1


def test_coarse_pixels_meet_the_fine_ones_on_the_same_ground():
  graphdef, state = model()
  features = inputs()
  moved = features | {'coarse': features['coarse'].at[0, 1, 1, 0].add(1.0)}
  change = fuse(graphdef, state, moved) - fuse(graphdef, state, features)
  touched = np.zeros((2, 4, 4), bool)
  touched[0, 2:4, 0:2] = True
  np.testing.assert_array_equal(np.abs(change).max(-1) > 0, touched)


def test_the_order_of_dates_is_in_their_codes_alone():
  graphdef, state = model()
  features = inputs()
  days = {'coarse': np.array([[10, 100, 200], [3, 2, 1]], 'int32')}
  y = fuse(graphdef, state, features, None, days)
  turned = fuse(
    graphdef,
    state,
    features | {'coarse': features['coarse'][:, ::-1]},
    None,
    {'coarse': days['coarse'][:, ::-1]},
  )
  np.testing.assert_allclose(turned, y, atol=FLOAT32)
  assert np.abs(y - fuse(graphdef, state, features)).max() > 1e-3


def test_unknown_days_get_no_code_and_leap_years_fit():
  graphdef, state = model()
  features = inputs()
  unknown = {'coarse': np.full((2, 3), -1, 'int32')}
  np.testing.assert_array_equal(
    fuse(graphdef, state, features, None, unknown),
    fuse(graphdef, state, features),
  )
  last, leap = (
    fuse(graphdef, state, features, None, {'radar': np.full((2, 2), day)})
    for day in (364, 365)
  )
  np.testing.assert_array_equal(last, leap)


def test_the_finest_sensor_has_no_days_unless_told():
  features = inputs()
  days = {'fine': np.full((2, 1), 200, 'int32')}
  for dated, moves in ((None, False), (('fine',), True)):
    graphdef, state = model(dated=dated)
    with_days = fuse(graphdef, state, features, None, days)
    change = np.abs(with_days - fuse(graphdef, state, features)).max()
    assert (change > 1e-3) == moves
  # Where all grids are alike, all are series.
  graphdef, state = model({'coarse': 1, 'radar': 1})
  series = {s: features[s] for s in ('coarse', 'radar')}
  days = {'radar': np.full((2, 2), 200, 'int32')}
  change = fuse(graphdef, state, series, None, days) - fuse(
    graphdef, state, series
  )
  assert np.abs(change).max() > 1e-3


def test_a_sample_without_any_date_is_the_token_alone():
  graphdef, state = model()
  features = inputs()
  nothing = {s: np.zeros(x.shape[:2], bool) for s, x in features.items()}
  y = fuse(graphdef, state, features, nothing)
  assert np.isfinite(y).all()
  np.testing.assert_allclose(
    y, np.broadcast_to(y[:1, :1, :1], y.shape), atol=FLOAT32
  )


def test_drop_path_is_for_training():
  graphdef, state = model(drop_path=0.9)
  features = inputs()
  y = fuse(graphdef, state, features)
  keyed = lambda seed: fuse(graphdef, state, features, key=jax.random.key(seed))
  assert np.abs(keyed(0) - keyed(1)).max() > 1e-3
  np.testing.assert_array_equal(keyed(0), keyed(0))
  assert np.abs(keyed(0) - y).max() > 1e-3
  plain, state = model()
  np.testing.assert_array_equal(
    fuse(plain, state, features, key=jax.random.key(0)),
    fuse(plain, state, features),
  )


def test_recomputation_changes_no_gradient():
  features = inputs()

  def gradient(graphdef, state):
    loss = lambda state: jnp.square(nnx.merge(graphdef, state)(features)).sum()
    return jax.jit(jax.grad(loss))(state)

  for a, b in zip(
    jax.tree.leaves(gradient(*model())),
    jax.tree.leaves(gradient(*model(remat='full'))),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_bfloat16_stays_bfloat16():
  graphdef, state = model()
  features = jax.tree.map(lambda x: x.astype(jnp.bfloat16), inputs())
  days = {'coarse': np.full((2, 3), 5, 'int32')}
  assert fuse(graphdef, state, features, None, days).dtype == jnp.bfloat16


def test_devices_share_the_samples():
  graphdef, state = model()
  features = inputs(batch=8)
  sharding = meshes.batch_sharding(meshes.make_mesh())
  apart = fuse(graphdef, state, jax.device_put(features, sharding))
  np.testing.assert_allclose(
    apart, fuse(graphdef, state, features), atol=FLOAT32
  )


def test_what_does_not_fit_is_named():
  graphdef, state = model()
  made, features = nnx.merge(graphdef, state), inputs()
  with pytest.raises(ValueError, match='nothing to fuse'):
    made({})
  with pytest.raises(ValueError, match='\'radr\'.*Did you mean "radar"'):
    made({'radr': features['radar']})
  with pytest.raises(ValueError, match=r'coarse: a grid of 1 x 1 .*\[1, 2\]'):
    made(features | {'coarse': features['coarse'][:, :, :1, :1]})
  with pytest.raises(ValueError, match='radar: 1 samples meet 2'):
    made(features | {'radar': features['radar'][:1]})
  with pytest.raises(ValueError, match="dated sensor.*'optical'"):
    model(dated=('optical',))
