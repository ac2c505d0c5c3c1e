"""Copies plus noise, and what their gates make of them."""

import jax
import numpy as np
import pytest

from rsfm_jax.convert import upcycle

KEY = jax.random.key(0)
draw = np.random.default_rng(0).standard_normal


def test_a_router_of_zeros_gives_every_expert_its_share():
  gate = upcycle.mean_gate(np.zeros((2, 8, 4)), choices=1, normalised=False)
  np.testing.assert_allclose(gate, [0.25, 0.25])
  gate = upcycle.mean_gate(np.zeros((8, 4)), choices=3, normalised=False)
  np.testing.assert_allclose(gate, 0.75)


def test_the_best_of_a_router_has_more_than_its_share():
  router = 0.1 * draw((64, 4))
  gate = upcycle.mean_gate(router, choices=1, normalised=False)
  tokens = draw((4000, 64))
  weight = np.exp(tokens @ router)
  best = (weight / weight.sum(1, keepdims=True)).max(1)
  assert gate > 0.3
  np.testing.assert_allclose(gate, best.mean(), rtol=0.05)


def test_normalised_gates_sum_to_one():
  gate = upcycle.mean_gate(draw((3, 2, 8, 4)), choices=2, normalised=True)
  np.testing.assert_array_equal(gate, np.ones((3, 2)))


@pytest.mark.parametrize('leaf', ['w_in', 'b_in', 'w_out', 'b_out'])
def test_copies_for_layers_sets_and_experts(leaf):
  """Only what an expert ends with is scaled, by its layer and set."""
  dense = draw((2, 5))
  factor = np.array([[1.0, 2.0], [3.0, 4.0]])
  made = upcycle.experts(
    leaf, dense, (2, 2, 3, 5), factor=factor, noise=0.0, key=KEY
  )
  scale = factor if leaf in ('w_out', 'b_out') else np.ones((2, 2))
  for layer in range(2):
    for sensor in range(2):
      for expert in range(3):
        np.testing.assert_allclose(
          made[layer, sensor, expert],
          scale[layer, sensor] * dense[layer],
          rtol=1e-6,
        )


def test_noise_is_relative_and_the_same_every_time():
  dense = 7 * draw((1, 40, 50))
  make = lambda leaf, key=KEY: upcycle.experts(
    leaf, dense, (1, 4, 40, 50), factor=np.ones(1), noise=0.1, key=key
  )
  added = make('w_in') - dense[:, None]
  np.testing.assert_allclose(added.std(), 0.7, rtol=0.05)
  assert not np.array_equal(added[0, 0], added[0, 1])
  np.testing.assert_array_equal(make('w_in'), make('w_in'))
  assert not np.array_equal(make('w_in'), make('w_in', jax.random.key(1)))


def test_biases_have_no_noise():
  made = upcycle.experts(
    'b_in', draw((1, 5)), (1, 2, 5), factor=np.ones(1), noise=0.1, key=KEY
  )
  np.testing.assert_array_equal(made[0, 0], made[0, 1])


def test_branches_share_one_output():
  dense = draw((2, 3)).astype(np.float32)
  np.testing.assert_allclose(
    upcycle.shared('w_out', dense, branches=3), dense / 3
  )
  assert upcycle.shared('w_in', dense, branches=3) is dense
  assert upcycle.shared('w_out', dense, branches=1) is dense
