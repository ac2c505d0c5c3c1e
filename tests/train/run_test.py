import json
import pathlib
import subprocess
import sys

import jax
import pytest

from rsfm_jax.train import run

CONFIG = {'model': {'size': 'tiny', 'depths': (2, 2)}, 'seed': 0}


def test_config_and_environment_come_first(tmp_path):
  with run.opened(tmp_path / 'a' / 'b', CONFIG) as workdir:
    config = json.loads((workdir / 'config.json').read_text())
    assert config['model'] == {'size': 'tiny', 'depths': [2, 2]}
    (start,) = json.loads((workdir / 'environment.json').read_text())['starts']
    assert start['packages']['jax'] and start['python'] and start['devices']
    assert 'git' in start


def test_the_same_config_resumes(tmp_path):
  for _ in range(2):
    with run.opened(tmp_path, CONFIG):
      pass
  starts = json.loads((tmp_path / 'environment.json').read_text())['starts']
  assert len(starts) == 2


def test_another_config_is_refused_by_key(tmp_path):
  with run.opened(tmp_path, CONFIG):
    pass
  other = {'model': {'size': 'base', 'depths': [2, 2]}, 'steps': 3, 'seed': 0}
  with (
    pytest.raises(ValueError) as refused,
    run.opened(tmp_path, other),
  ):
    pass
  message = str(refused.value)
  assert "model.size: 'tiny' -> 'base'" in message
  assert "steps: 'absent' -> 3" in message
  assert 'seed' not in message and 'config.json' in message
  assert json.loads((tmp_path / 'config.json').read_text())['seed'] == 0


def test_a_config_that_was_refused_may_be_mended(tmp_path):
  """Until something is made by it, a workdir is bound to no config."""
  mended = CONFIG | {'seed': 1}
  with (
    pytest.raises(ValueError, match='no such sensor'),
    run.opened(tmp_path, CONFIG),
  ):
    raise ValueError('no such sensor')
  with (
    pytest.raises(ValueError, match='later'),
    run.opened(tmp_path, mended) as workdir,
  ):
    (workdir / 'metrics.jsonl').write_text('{}')
    raise ValueError('later')
  with (
    pytest.raises(ValueError, match='seed: 1 -> 0'),
    run.opened(tmp_path, CONFIG),
  ):
    pass


def test_a_second_process_is_refused(tmp_path):
  root = str(pathlib.Path(run.__file__).parents[2])
  code = (
    f'import sys; sys.path.insert(0, {root!r})\n'
    'from rsfm_jax.core import files\n'
    f'with files.exclusive({str(tmp_path)!r}): pass'
  )
  with run.opened(tmp_path, CONFIG):
    second = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True
    )
  assert second.returncode != 0
  assert f'{tmp_path} is in use by process' in second.stderr
  with run.opened(tmp_path, CONFIG):
    pass  # Free again.


def test_another_process_neither_locks_nor_writes(tmp_path, monkeypatch):
  with run.opened(tmp_path, CONFIG):
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    with run.opened(tmp_path, CONFIG) as workdir:
      assert workdir == tmp_path
    assert sorted(tmp_path.iterdir()) == before


def test_another_process_must_see_the_same_workdir(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  monkeypatch.setattr(run, '_SHARED_STORAGE_SECONDS', 0.3)
  with (
    pytest.raises(ValueError, match='must be on storage that all hosts share'),
    run.opened(tmp_path / 'of_this_host', CONFIG),
  ):
    pass


def test_another_process_must_have_the_same_config(tmp_path, monkeypatch):
  with run.opened(tmp_path, CONFIG):
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    with (
      pytest.raises(ValueError, match='seed: 0 -> 1'),
      run.opened(tmp_path, CONFIG | {'seed': 1}),
    ):
      pass


def test_a_damaged_config_file_is_named(tmp_path):
  (tmp_path / 'config.json').write_text('{"model": ')
  with (
    pytest.raises(ValueError, match='config.json is not readable as JSON'),
    run.opened(tmp_path, CONFIG),
  ):
    pass
