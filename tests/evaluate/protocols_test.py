"""The presets say what the harnesses publish."""

import numpy as np
import pytest

from rsfm_jax.evaluate import protocols


def test_published_grids():
  linear = protocols.get('torchgeobench_linear')
  assert len(linear.grid) == 40 and linear.refit == 'train_val'
  np.testing.assert_allclose(linear.grid[::39], [1e-6, 1e4])
  logreg = protocols.get('dinov3_logreg')
  assert len(logreg.grid) == 45
  np.testing.assert_allclose(logreg.grid[::44], [1e-6, 1e5])
  galileo = protocols.get('galileo_lp')
  assert len(galileo.grid) == 16
  np.testing.assert_allclose(galileo.grid[::15], [1e-4, 8e-1])
  olmoearth = protocols.get('olmoearth_lp')
  assert len(olmoearth.grid) == 8
  assert olmoearth.recipe.reset_optimizer_every == 5
  continuous = protocols.get('olmoearth_lp_continuous')
  assert continuous.recipe.reset_optimizer_every is None
  assert continuous.recipe.evaluate_every == 5
  assert protocols.get('torchgeobench_knn5').multilabel_metric == 'micro_map'
  assert (
    protocols.get('dinov3_knn20').rule == protocols.get('dinov2_knn20').rule
  )
  assert galileo.recipe.epochs == olmoearth.recipe.epochs == 50
  assert protocols.get('linear').grid == pytest.approx(
    [10**p for p in np.arange(-2, 2.1, 0.5)]
  )


def test_what_a_preset_costs_and_what_a_seed_moves():
  fits = {
    'linear': 9, 'torchgeobench_linear': 41, 'galileo_lp': 16,
    'olmoearth_knn20': 1, 'olmoearth_lp_sweep': 16, 'trained_sweep': 32,
  }  # fmt: skip
  assert fits == {name: protocols.get(name).fits for name in fits}
  seeded = {name for name in fits if protocols.get(name).seeded}
  assert seeded == {'galileo_lp', 'olmoearth_lp_sweep', 'trained_sweep'}


def test_names_versions_and_sources():
  for name in protocols.names():
    preset = protocols.get(name)
    assert preset.name == name and preset.version >= 1 and preset.source


def test_incomplete_presets_are_refused():
  with pytest.raises(ValueError, match='needs a grid'):
    protocols.Protocol('x', 1, 'logistic', ('none',), 'here')
  with pytest.raises(ValueError, match='needs a recipe'):
    protocols.Protocol('x', 1, 'adamw', ('none',), 'here', grid=(1e-3,))
  with pytest.raises(ValueError, match='only kind adamw chooses'):
    protocols.Protocol(
      'x', 1, 'logistic', ('none', 'whiten'), 'here', grid=(1.0,)
    )
  with pytest.raises(ValueError, match='Did you mean "galileo_knn5"'):
    protocols.get('galileo_knn')
