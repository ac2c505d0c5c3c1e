"""Parts of arrays make up the arrays."""

import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import arrays


@pytest.mark.parametrize('make', [np.asarray, jnp.asarray])
@pytest.mark.parametrize('limit', [1, 100, 10_000])
def test_blocks_come_in_the_order_of_memory(make, limit):
  array = np.arange(120.0, dtype='float32').reshape(2, 3, 4, 5)
  blocks = list(arrays.blocks(make(array), limit=limit))
  found = np.concatenate([block.reshape(-1) for block in blocks])
  np.testing.assert_array_equal(found, array.reshape(-1))
  assert len(blocks) == {1: 6, 100: 6, 10_000: 1}[limit]


def test_a_part_is_cut_further():
  array = np.arange(120).reshape(2, 3, 4, 5)
  blocks = list(arrays.blocks(array, (1,), limit=1))
  assert len(blocks) == 3
  np.testing.assert_array_equal(np.stack(blocks), array[1])


def test_scalars_and_vectors_are_whole():
  assert next(arrays.blocks(np.float32(3))) == 3
  assert len(list(arrays.blocks(np.arange(9), limit=1))) == 1
