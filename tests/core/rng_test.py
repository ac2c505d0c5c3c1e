"""Keys are a function of (seed, step, name) and of nothing else."""

import jax
import numpy as np

from rsfm_jax.core import rng

GOLDEN = (155961034, 2142020064)


def data(key):
  return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_a_key_is_a_function_of_seed_and_step():
  assert data(rng.key_for(3, 7)) == data(rng.key_for(3, 7))
  keys = {data(rng.key_for(seed, step)) for seed in (0, 1) for step in (0, 1)}
  assert len(keys) == 4


def test_a_traced_step_gives_the_same_key():
  traced = jax.jit(lambda step: rng.key_for(3, step))(7)
  assert data(traced) == data(rng.key_for(3, 7))


def test_names_give_independent_streams_in_order():
  key = rng.key_for(0)
  keys = [
    rng.named(key, 'mask'),
    rng.named(key, 'crop'),
    rng.named(key, 'mask', 'crop'),
    rng.named(key, 'crop', 'mask'),
  ]
  assert len({data(k) for k in keys}) == 4
  assert data(rng.named(rng.named(key, 'mask'), 'crop')) == data(keys[2])


def test_named_streams_never_move():
  # Golden: a change here changes every mask of every run ever resumed.
  key = rng.named(rng.key_for(1, 2), 'mask')
  assert data(key) == GOLDEN
