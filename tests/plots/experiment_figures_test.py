"""Scatters, maps of queries and curves of probes show what they were given."""

import numpy as np
import pytest

from rsfm_jax.plots import components
from rsfm_jax.plots import progress
from rsfm_jax.plots import query_maps
from rsfm_jax.plots import scatter
from rsfm_jax.plots import theme
from rsfm_jax.sensors import catalogue

OPT = catalogue.get('opt')


def test_components_are_those_of_a_singular_value_decomposition():
  x = np.random.default_rng(0).normal(size=(40, 5)) * [4, 3, 2, 1, 0.5] + 7
  found = components.principal(x, 3)
  u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
  np.testing.assert_allclose(np.abs(found.values), np.abs(u * s)[:, :3])
  np.testing.assert_allclose(found.shares, (s**2 / (s**2).sum())[:3])
  assert (components.principal(x, 3).values == found.values).all()
  with pytest.raises(ValueError, match='not the 6 dimensions'):
    components.principal(x, 6)


def clouds(apart):
  """Three classes of 20 samples, `apart` from each other along one axis."""
  x = np.random.default_rng(0).normal(size=(60, 8))
  labels = np.arange(60) % 3
  x[:, 2] += apart * labels
  return x, labels


def test_a_panel_per_model_and_a_colour_per_class():
  x, labels = clouds(30)
  figure = scatter.figure(
    {'with prompts': x, 'without': clouds(0)[0]}, labels, classes='abc'
  )
  left, right = figure.axes
  titles = [axes.get_title(loc='left') for axes in figure.axes]
  assert titles == ['with prompts', 'without']
  assert len(left.collections) == len(right.collections) == 3
  centres = [c.get_offsets()[:, 0].mean() for c in left.collections]
  assert abs(centres[2] - centres[0]) == pytest.approx(60, rel=0.05)
  colours = {tuple(c.get_facecolor()[0][:3]) for c in left.collections}
  assert len(colours) == 3
  assert '% of the variance' in left.get_xlabel()
  names = [text.get_text() for text in figure.legends[0].get_texts()]
  assert names == ['a', 'b', 'c']


def test_more_classes_than_colours_differ_in_their_marks():
  x = np.random.default_rng(0).normal(size=(24, 3))
  labels = np.arange(24) % 12
  figure = scatter.figure({'m': x}, labels, classes=[*'abcdefghijkl'])
  looks = {
    (tuple(c.get_facecolor()[0]), len(c.get_paths()[0].vertices))
    for c in figure.axes[0].collections
  }
  assert len(looks) == 12


@pytest.mark.parametrize(
  ('features', 'labels', 'message'),
  [
    ({}, [0], 'at least one model'),
    ({'mine': np.ones((2, 3))}, [0], 'mine: 2 features, 1 labels'),
    ({'mine': np.ones((2, 3))}, [0, 2], r'labels 0\.\.2 .* 2 classes'),
  ],
)
def test_scatters_that_cannot_be_are_named(features, labels, message):
  with pytest.raises(ValueError, match=message):
    scatter.figure(features, np.array(labels), classes='ab')


def test_maps_of_queries_are_bright_where_they_look():
  images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3))
  weights = np.zeros((2, 3, 2, 2))
  weights[:, 0, 0, 1] = 1.0
  weights[:, 1] = 0.25
  figure = query_maps.figure(images, weights, sensor=OPT, most=2)
  labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
  assert labels == ['opt', 'query 1', 'query 2']
  shown = np.asarray(figure.axes[0].images[0].get_array())
  assert shown.shape == (3 * 11 - 3, 2 * 11 - 3, 4)
  first, second = shown[11:19, :8], shown[22:30, :8]
  assert (first[:4, 4:].sum(-1) > first[4:, :4].sum(-1)).all()
  assert np.ptp(second, axis=(0, 1)).max() == 0  # Even, and bright.
  np.testing.assert_allclose(second[0, 0], first[0, 7])
  title = figure.axes[0].get_title(loc='left')
  assert title == 'Where 2 of 3 queries look'


@pytest.mark.parametrize(
  ('weights', 'message'),
  [
    (np.ones((1, 2, 4)), r'shape \(1, 2, 4\) are not'),
    (np.ones((2, 2, 4, 4)), 'the 1 images'),
    (np.full((1, 2, 4, 4), np.nan), 'at least 0'),
  ],
)
def test_weights_that_are_none_are_named(weights, message):
  with pytest.raises(ValueError, match=message):
    query_maps.figure(np.ones((1, 8, 8, 3)), weights, sensor=OPT)


def row(run, seed, step, accuracy):
  return {'run': run, 'seed': seed, 'step': step, 'accuracy': accuracy}


def test_lines_are_means_and_bands_reach_from_seed_to_seed():
  rows = [
    row('base', s, t, 0.1 * s + t / 100) for t in (20, 0) for s in range(3)
  ]
  figure = progress.figure([*rows, row('+MoE', 0, 0, 0.9)], title='scenes')
  (axes,) = figure.axes
  base, moe = axes.lines
  assert list(base.get_xdata()) == [0, 20]
  np.testing.assert_allclose(base.get_ydata(), [0.1, 0.3])
  band = axes.collections[0].get_paths()[0].vertices
  assert {tuple(np.round(v, 6)) for v in band} >= {
    (0, 0),
    (0, 0.2),
    (20, 0.2),
    (20, 0.4),
  }
  assert list(moe.get_ydata()) == [0.9]
  names = [text.get_text() for text in figure.legends[0].get_texts()]
  assert names == ['base (3 seeds)', '+MoE']
  assert base.get_color() == theme.SERIES[0]
  assert 'lowest to highest seed' in axes.get_title(loc='left')


@pytest.mark.parametrize(
  ('rows', 'message'),
  [
    ([], 'at least one row'),
    ([{'run': 'base'}], "'base' lacks .*'seed'"),
    ([row('base', 0, 1, 0.5)] * 2, 'base, seed 0, step 1 is there twice'),
  ],
)
def test_rows_that_cannot_be_drawn_are_named(rows, message):
  with pytest.raises(ValueError, match=message):
    progress.figure(rows)
