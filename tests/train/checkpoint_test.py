import errno
import pathlib
import resource
import shutil

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from rsfm_jax.core import log
from rsfm_jax.sharding import mesh as mesh_lib
from rsfm_jax.sharding import state as state_lib
from rsfm_jax.train import checkpoint

METADATA = {'spec': {'embed_dim': 8}, 'contract': {'sensors': ['opt', 'ms']}}


@pytest.fixture
def warnings(monkeypatch):
  said = []
  monkeypatch.setattr(log, 'warning', lambda text, *a: said.append(text % a))
  return said


@pytest.fixture
def saved(toy, tmp_path):
  """Steps 1, 2 and 3, each with its step in every parameter."""
  checkpoints = checkpoint.Checkpoints(tmp_path / 'checkpoints', keep=3)
  for step in (1, 2, 3):
    checkpoints.save(step, state_at(toy, step), METADATA)
  checkpoints.wait()
  yield checkpoints
  checkpoints.close()


def state_at(toy, step):
  state = toy.init_state()
  state['params'] = jax.tree.map(
    lambda x: jnp.full_like(x, step), state['params']
  )
  return state | {'step': jnp.int32(step)}


def largest_file(folder):
  found = [p for p in pathlib.Path(folder).rglob('*') if p.is_file()]
  return max(found, key=lambda path: path.stat().st_size)


def test_round_trip_with_metadata(toy, saved, equal):
  restored = saved.restore(toy.abstract(toy.init_state()))
  assert restored.step == 3
  assert restored.metadata == METADATA
  equal(restored.state, state_at(toy, 3))


def test_nothing_saved_is_none(toy, tmp_path):
  fresh = checkpoint.Checkpoints(tmp_path)
  assert fresh.restore(toy.abstract(toy.init_state())) is None
  fresh.close()


def test_only_the_newest_are_kept(toy, saved):
  saved.save(4, state_at(toy, 4), METADATA)
  saved.wait()
  assert saved.steps() == [2, 3, 4]


def test_the_state_may_be_donated_while_it_is_being_written(toy, tmp_path):
  bump = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  state = {'params': {'w': jnp.zeros((1500, 1500))}, 'step': jnp.int32(0)}
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(1, state, {})
  for _ in range(5):
    state = bump(state)
  checkpoints.wait()
  loaded = checkpoint.load_params(tmp_path)
  np.testing.assert_array_equal(loaded.params['w'], 0.0)
  checkpoints.close()


def test_parameters_load_alone(toy, saved, tmp_path, equal):
  folder = tmp_path / 'checkpoints'
  loaded = checkpoint.load_params(folder)
  equal(loaded.params, state_at(toy, 3)['params'])
  assert (loaded.step, loaded.metadata) == (3, METADATA)
  equal(
    checkpoint.load_params(folder, step=1).params, state_at(toy, 1)['params']
  )
  equal(
    checkpoint.load_params(folder, which='ema').params, toy.init_state()['ema']
  )
  with pytest.raises(ValueError, match=r'no step 9, only \[1, 2, 3\]'):
    checkpoint.load_params(folder, step=9)


def test_other_entries_of_the_state_load_alone(toy, saved, tmp_path, equal):
  held = {'centres': jnp.arange(3.0), 'far': {'off': jnp.ones(2)}}
  saved.save(4, state_at(toy, 4) | {'extra': held}, METADATA)
  saved.wait()
  folder = tmp_path / 'checkpoints'
  equal(checkpoint.load_params(folder, which='extra').params, held)
  with pytest.raises(ValueError, match="'extra'.*but no 'extro'"):
    checkpoint.load_params(folder, which='extro')


@pytest.mark.parametrize('name', ['flipped', 'cut', 'gone', 'unsealed'])
def test_a_damaged_newest_step_falls_back_and_says_so(
  toy, saved, tmp_path, warnings, equal, name
):
  folder = tmp_path / 'checkpoints' / '3'
  victim = largest_file(folder)
  if name == 'flipped':
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0xFF
    victim.write_bytes(data)
  elif name == 'cut':
    victim.write_bytes(victim.read_bytes()[:100])
  elif name == 'gone':
    victim.unlink()
  else:
    (folder / 'sha256.json').unlink()
    (folder / 'params' / '_METADATA').unlink()
  loaded = checkpoint.load_params(tmp_path / 'checkpoints')
  assert loaded.step == 2
  restored = saved.restore(toy.abstract(toy.init_state()))
  assert restored.step == 2
  equal(restored.state, state_at(toy, 2))
  assert 'checkpoint 3 is damaged' in warnings[-1]
  # Nothing is lost, and the step can be written again.
  assert (tmp_path / 'checkpoints' / 'damaged-3').is_dir()
  saved.save(3, state_at(toy, 3), METADATA)
  saved.wait()
  assert saved.steps() == [1, 2, 3]


def test_all_steps_damaged_is_an_error_not_a_fresh_start(toy, saved, tmp_path):
  for step in (1, 2, 3):
    largest_file(tmp_path / 'checkpoints' / str(step)).unlink()
  with pytest.raises(ValueError, match=r'all of the steps \[1, 2, 3\]'):
    saved.restore(toy.abstract(toy.init_state()))


def test_another_model_is_refused_by_name(toy, saved):
  abstract = toy.abstract(toy.init_state())
  wide = jax.ShapeDtypeStruct(
    (8, 5), jnp.float32, sharding=abstract['step'].sharding
  )
  abstract['params']['head']['kernel'] = wide
  with pytest.raises(ValueError, match=r'head/kernel is .*8, 4.*there.*8, 5'):
    saved.restore(abstract)


def test_a_killed_save_is_not_a_checkpoint(toy, saved, tmp_path):
  folder = tmp_path / 'checkpoints'
  shutil.copytree(folder / '3', folder / '4.orbax-checkpoint-tmp')
  again = checkpoint.Checkpoints(folder)
  assert again.steps() == [1, 2, 3]
  assert not list(folder.glob('*tmp*'))
  again.close()


def test_restores_onto_other_meshes(toy, tmp_path, equal):
  rules = (('.*/kernel', P('fsdp')), ('.*', P()))

  def plan(devices, **axes):
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:devices], **axes)
    return state_lib.plan(toy.init_state, mesh=mesh, rules=rules)

  checkpoints = checkpoint.Checkpoints(tmp_path)
  state = plan(8, fsdp=8).create()
  checkpoints.save(1, state, METADATA)
  for other in (plan(4, fsdp=2), plan(1)):
    restored = checkpoints.restore(other.abstract).state
    equal(restored, state)
    for x, want in zip(
      jax.tree.leaves(restored), jax.tree.leaves(other.shardings)
    ):
      assert x.sharding == want
  checkpoints.close()


def test_saving_small_replicated_arrays_compiles_nothing(toy, tmp_path):
  """Orbax would slice each of them for each device, a program a slice."""
  mesh = mesh_lib.make_mesh()
  state = jax.device_put(toy.init_state(), mesh_lib.replicated(mesh))
  checkpoints = checkpoint.Checkpoints(tmp_path)
  compiled = []
  listen = lambda name, *_, **__: compiled.append(name)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    checkpoints.save(1, state, {})
    checkpoints.wait()
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  checkpoints.close()
  assert not [name for name in compiled if 'backend_compile' in name]


def test_processes_divide_the_files_to_check(saved, tmp_path):
  folder = tmp_path / 'checkpoints' / '3'
  largest_file(folder).unlink()
  found = [checkpoint.damage(folder, part=i, of=3) for i in range(3)]
  assert sorted(bool(problem) for problem in found) == [False, False, True]


def test_damage_that_another_process_found_counts(
  toy, saved, warnings, monkeypatch
):
  def gathered(text):
    return [text, 'a/b is missing' if len(warnings) < 1 else '']

  monkeypatch.setattr(checkpoint.hosts, 'gathered', gathered)
  restored = saved.restore(toy.abstract(toy.init_state()))
  assert restored.step == 2
  assert 'checkpoint 3 is damaged (a/b is missing)' in warnings[0]


def test_too_little_room_is_told_before_writing(toy, saved, monkeypatch):
  usage = shutil.disk_usage('/')._replace(free=1000)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
  with pytest.raises(OSError, match='no room for checkpoint 4.*1,000 free'):
    saved.save(4, state_at(toy, 4), METADATA)
  assert saved.steps() == [1, 2, 3]


def test_a_disk_that_fills_while_saving_keeps_the_previous_step(
  toy, tmp_path, equal
):
  """The system refuses bytes past a limit, as it does on a full disk."""
  checkpoints = checkpoint.Checkpoints(tmp_path)
  small = {'params': {'w': jnp.ones((4,))}, 'step': jnp.int32(1)}
  checkpoints.save(1, small, METADATA)
  checkpoints.wait()
  noise = jax.random.normal(jax.random.key(0), (600, 600))
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
  try:
    checkpoints.save(2, {'params': {'w': noise}, 'step': jnp.int32(2)}, {})
    with pytest.raises(
      OSError, match=r'could not save checkpoint 2 in.*kept checkpoints: .1.'
    ):
      checkpoints.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert checkpoints.steps() == [1]
  assert not list(tmp_path.glob('*tmp*'))
  equal(checkpoints.restore(toy.abstract(small)).state, small)
  # With room again, the same object goes on.
  checkpoints.save(2, {'params': {'w': noise}, 'step': jnp.int32(2)}, {})
  checkpoints.close()
  assert checkpoints.steps() == [1, 2]


def test_an_error_number_survives(tmp_path, monkeypatch):
  checkpoints = checkpoint.Checkpoints(tmp_path)

  def full(_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(checkpoint, '_seal', full)
  state = {'params': {'w': jnp.ones(3)}, 'step': jnp.int32(1)}
  checkpoints.save(1, state, {})
  with pytest.raises(OSError, match='No space left') as caught:
    checkpoints.wait()
  assert caught.value.errno == errno.ENOSPC
  checkpoints.close()


def test_content_hash_sees_names_shapes_and_bits():
  a = {'x': jnp.arange(4.0), 'y': jnp.zeros(2)}
  same = {'y': np.zeros(2, np.float32), 'x': np.arange(4.0, dtype=np.float32)}
  assert checkpoint.content_hash(a) == checkpoint.content_hash(same)
  others = (
    {'x': a['x'], 'z': a['y']},
    {'x': a['x'].reshape(2, 2), 'y': a['y']},
    {'x': a['x'].at[0].set(1e-30), 'y': a['y']},
  )
  assert len({checkpoint.content_hash(o) for o in (a, *others)}) == 4


def test_a_bucket_is_no_place_for_checkpoints():
  with pytest.raises(ValueError, match='gs://b/c: a checkpoint .*gcsfuse'):
    checkpoint.Checkpoints('gs://b/c')
  with pytest.raises(ValueError, match='s3://b/c: a checkpoint .*mount-s3'):
    checkpoint.load_params('s3://b/c')
