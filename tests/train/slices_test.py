"""A part of a saved array is read without the rest."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.train import checkpoint
from rsfm_jax.train import slices

PARAMS = {
  'ffn': {'w_in': np.arange(240.0, dtype='float32').reshape(2, 3, 5, 8)},
  'norm': {'scale': jnp.arange(4, dtype=jnp.bfloat16)},
}
STATE = {'params': PARAMS, 'step': np.array(7, np.int32)}


def save(folder, step=7):
  saved = checkpoint.Checkpoints(folder)
  saved.save(step, STATE, {'spec': {'model': 'toy'}})
  saved.wait()
  saved.close()
  return folder


def chunk(folder, name):
  """Shape of the chunks in which an array was stored."""
  opened = slices.open_params(folder).params
  return trees.flatten(opened)[name]._store.chunk_layout.write_chunk.shape


def test_parts_are_those_of_the_array(tmp_path):
  found = slices.open_params(save(tmp_path))
  assert (found.step, found.metadata) == (7, {'spec': {'model': 'toy'}})
  flat, want = trees.flatten(found.params), trees.flatten(PARAMS)
  assert flat.keys() == want.keys()
  for name, array in flat.items():
    assert (array.shape, array.dtype) == (want[name].shape, want[name].dtype)
    np.testing.assert_array_equal(array[...], want[name])
  w_in = flat['ffn/w_in']
  np.testing.assert_array_equal(w_in[1, 2], PARAMS['ffn']['w_in'][1, 2])


def test_the_hash_of_what_is_on_disk_is_that_of_the_arrays(tmp_path):
  found = slices.open_params(save(tmp_path))
  assert checkpoint.content_hash(found.params) == checkpoint.content_hash(
    PARAMS
  )


def test_only_large_stacks_are_stored_matrix_by_matrix(tmp_path, monkeypatch):
  assert chunk(save(tmp_path / 'a'), 'ffn/w_in') == (2, 3, 5, 8)
  monkeypatch.setattr(checkpoint, '_BYTES_WHOLE', 100)
  b = save(tmp_path / 'b')
  assert chunk(b, 'ffn/w_in') == (1, 1, 5, 8)
  assert chunk(b, 'norm/scale') == (4,)
  restored = checkpoint.Checkpoints(b).restore(
    jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape,
        x.dtype,
        sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]),
      ),
      STATE,
    )
  )
  np.testing.assert_array_equal(
    restored.state['params']['ffn']['w_in'], PARAMS['ffn']['w_in']
  )


def test_what_is_not_there_is_an_error(tmp_path):
  save(tmp_path)
  with pytest.raises(ValueError, match='holds no step 8'):
    slices.open_params(tmp_path, step=8)
  with pytest.raises(ValueError, match="no 'ema'"):
    slices.open_params(tmp_path, which='ema')
  with pytest.raises(ValueError, match='no good checkpoint'):
    slices.open_params(tmp_path / 'empty')


def test_a_damaged_step_is_passed_over(tmp_path):
  save(tmp_path, 3)
  save(tmp_path, 7)
  seal = tmp_path / '7' / 'sha256.json'
  digests = json.loads(seal.read_text())
  seal.write_text(json.dumps(dict.fromkeys(digests, 'other')))
  assert slices.open_params(tmp_path).step == 3
