"""A model folder is whole, or it is not a model folder."""

import errno
import json

import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import files
from rsfm_jax.core import trees
from rsfm_jax.export import folder
from rsfm_jax.export import weights
from rsfm_jax.train import checkpoint

PARAMS = {
  'embed': {'opt': {'kernel': jnp.arange(6.0).reshape(2, 3)}},
  'norm': {'scale': jnp.ones(3, jnp.float16)},
  'steps': jnp.int32(7),
}
SPEC = {'model': 'toy', 'sensors': ['opt']}
CONTRACT = {'sensors': {'opt': {'bands': ['red']}}, 'statistics': {}}
RECORD = {'operation': 'extract'}


def save(path, params=PARAMS):
  return folder.save(path, params, spec=SPEC, contract=CONTRACT, record=RECORD)


@pytest.fixture
def saved(tmp_path):
  save(tmp_path / 'model')
  return tmp_path / 'model'


def test_what_goes_in_comes_out(saved):
  got = folder.load(saved)
  assert (got.spec, got.contract) == (SPEC, CONTRACT)
  flat, expected = trees.flatten(got.params), trees.flatten(PARAMS)
  assert flat.keys() == expected.keys()
  for name, leaf in flat.items():
    assert leaf.dtype == expected[name].dtype
    np.testing.assert_array_equal(leaf, expected[name])


def test_the_hash_of_the_content_is_recorded(saved):
  got = folder.load(saved)
  assert got.record == RECORD | {
    'content_hash': checkpoint.content_hash(PARAMS)
  }
  other = save(saved.parent / 'other', PARAMS | {'steps': jnp.int32(8)})
  assert other != got.record['content_hash']


def test_the_orbax_checkpoint_beside_the_weights_holds_the_same(saved):
  got = checkpoint.load_params(saved / 'checkpoints')
  assert got.metadata == {'spec': SPEC, 'contract': CONTRACT}
  for name, leaf in trees.flatten(got.params).items():
    np.testing.assert_array_equal(leaf, trees.flatten(PARAMS)[name])


def test_the_weights_name_their_spec_for_other_readers(saved):
  raw = (saved / 'model.safetensors').read_bytes()
  size = int.from_bytes(raw[:8], 'little')
  header = json.loads(raw[8 : 8 + size])
  assert json.loads(header['__metadata__']['spec']) == SPEC
  assert set(header) == {'__metadata__', *trees.flatten(PARAMS)}


def test_a_model_is_never_overwritten(saved):
  before = (saved / 'model.safetensors').read_bytes()
  with pytest.raises(ValueError, match='holds a model already.*--out'):
    save(saved, PARAMS | {'steps': jnp.int32(8)})
  assert (saved / 'model.safetensors').read_bytes() == before


def test_the_checkpoints_of_a_run_are_never_touched(tmp_path):
  """Step 0 among them would have removed all the others."""
  run = checkpoint.Checkpoints(tmp_path / 'checkpoints', keep=3)
  for step in (10, 20):
    run.save(step, {'params': PARAMS, 'step': np.array(step)}, {})
  run.close()
  with pytest.raises(ValueError, match=r'checkpoints \[10, 20\] of a run'):
    save(tmp_path)
  assert checkpoint.steps(tmp_path / 'checkpoints') == [10, 20]
  assert not (tmp_path / 'model.safetensors').exists()


def test_weights_of_two_bytes_come_back_as_they_are(tmp_path):
  rough = PARAMS | {'norm': {'scale': jnp.arange(3, dtype=jnp.bfloat16)}}
  save(tmp_path / 'model', rough)
  scale = folder.load(tmp_path / 'model').params['norm']['scale']
  assert scale.dtype == jnp.bfloat16
  np.testing.assert_array_equal(scale, rough['norm']['scale'])


def test_a_type_that_could_not_be_read_back_is_refused(tmp_path):
  rough = PARAMS | {'norm': {'scale': jnp.ones(3, jnp.float8_e5m2)}}
  with pytest.raises(ValueError, match='norm/scale is float8_e5m2'):
    save(tmp_path / 'model', rough)
  assert not (tmp_path / 'model').exists()


@pytest.mark.parametrize('size', [4, 100, -1])
def test_truncated_weights_are_an_error_that_names_the_file(saved, size):
  path = saved / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:size])
  with pytest.raises(ValueError, match='model.safetensors is damaged'):
    folder.load(saved)


def test_a_flipped_bit_is_noticed(saved):
  path = saved / 'model.safetensors'
  raw = bytearray(path.read_bytes())
  raw[-3] ^= 1
  path.write_bytes(raw)
  with pytest.raises(ValueError, match='model.safetensors is damaged'):
    folder.load(saved)


@pytest.mark.parametrize('name', ['spec', 'contract', 'record'])
def test_a_missing_or_damaged_companion_is_named(saved, name):
  path = saved / f'{name}.json'
  path.write_text('{"model": ')
  with pytest.raises(ValueError, match=f'{name}.json is not readable'):
    folder.load(saved)
  path.unlink()
  with pytest.raises(ValueError, match=f'{name}.json is missing'):
    folder.load(saved)


def test_a_folder_without_weights_is_not_a_model(tmp_path):
  assert not folder.is_model(tmp_path)
  with pytest.raises(ValueError, match='holds no model.safetensors'):
    folder.load(tmp_path)


@pytest.mark.parametrize('full', ['spec.json', 'model.safetensors'])
def test_a_full_disk_leaves_nothing_that_reads_as_a_model(
  tmp_path, monkeypatch, full
):
  write = files.write_bytes

  def refuse(path, data):
    if path.name == full:
      raise OSError(errno.ENOSPC, f'could not write {path}')
    write(path, data)

  def no_room(file, entries):
    raise OSError(errno.ENOSPC, 'no space left')

  path = tmp_path / 'model'
  with monkeypatch.context() as patch:
    patch.setattr(files, 'write_bytes', refuse)
    if full == 'model.safetensors':
      patch.setattr(weights, '_write_arrays', no_room)
    with pytest.raises(OSError, match=full):
      save(path)
  assert not folder.is_model(path)
  assert not list(path.glob('.*.tmp'))
  # With room again, other weights go to the same place, whole.
  save(path, PARAMS | {'steps': jnp.int32(9)})
  assert int(folder.load(path).params['steps']) == 9
  again = checkpoint.load_params(path / 'checkpoints')
  assert int(again.params['steps']) == 9
