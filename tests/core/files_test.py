"""A file is whole or absent, whatever happens while it is written."""

import errno
import os
import pathlib
import subprocess
import sys
import uuid

import pytest

from rsfm_jax.core import files


def listing(folder):
  return sorted(path.name for path in folder.iterdir())


def test_json_comes_back(tmp_path):
  path = tmp_path / 'made' / 'on' / 'demand.json'
  files.write_json(path, {'b': [1, None], 'a': 'é'})
  assert files.read_json(path) == {'b': [1, None], 'a': 'é'}
  assert listing(path.parent) == ['demand.json']


def test_a_damaged_file_is_named(tmp_path):
  path = tmp_path / 'index.json'
  path.write_text('{"half": ')
  with pytest.raises(ValueError, match='index.json is not readable as JSON'):
    files.read_json(path)


def full_disk(*_):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize('call', ['fsync', 'replace'])
def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch, call):
  path = tmp_path / 'config.json'
  files.write_text(path, 'old')
  monkeypatch.setattr(os, call, full_disk)
  with pytest.raises(OSError, match='could not write .*config.json') as error:
    files.write_text(path, 'new')
  assert error.value.errno == errno.ENOSPC
  assert path.read_text() == 'old'
  assert listing(tmp_path) == ['config.json']


@pytest.mark.skipif(
  not pathlib.Path('/dev/full').exists(), reason='no /dev/full here'
)
def test_a_really_full_device_is_reported(tmp_path, monkeypatch):
  path = tmp_path / 'model.safetensors'
  monkeypatch.setattr(files.uuid, 'uuid4', lambda: uuid.UUID(int=0))
  temporary = tmp_path / f'.{path.name}.{12 * "0"}.tmp'
  temporary.symlink_to('/dev/full')
  with pytest.raises(OSError, match='could not write .*model.safetensors'):
    files.write_bytes(path, b'0' * 10)
  assert listing(tmp_path) == []


def test_sha256_reads_in_blocks(tmp_path):
  path = tmp_path / 'shard'
  path.write_bytes(b'a' * ((1 << 20) + 1))
  whole = files.sha256(path)
  path.write_bytes(b'a' * (1 << 20) + b'b')
  assert len(whole) == 64 and files.sha256(path) != whole
  path.write_bytes(b'abc')
  assert files.sha256(path).startswith('ba7816bf8f01cfea414140de5dae2223')


HOLD = """
from rsfm_jax.core import files
with files.exclusive({folder!r}):
  print('held', flush=True)
  input()
"""


def test_a_second_process_is_told_who_holds_the_folder(tmp_path):
  code = HOLD.format(folder=str(tmp_path))
  with subprocess.Popen(
    [sys.executable, '-c', code],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == 'held\n'
    with (
      pytest.raises(RuntimeError, match=f'in use by process {process.pid};'),
      files.exclusive(tmp_path),
    ):
      pass
    process.kill()
  with files.exclusive(tmp_path):  # A killed holder leaves nothing behind.
    assert (tmp_path / '.lock').read_text() == str(os.getpid())


def test_the_folder_is_free_again_afterwards(tmp_path):
  for _ in range(2):
    with files.exclusive(tmp_path / 'workdir'):
      pass


def test_a_bucket_has_neither_locks_nor_renames():
  with pytest.raises(ValueError, match='gs://b/run: a workdir .* its lock'):
    files.exclusive(pathlib.Path('gs://b/run')).__enter__()
  with pytest.raises(ValueError, match='s3://b/x.json: a file .*aws s3 cp'):
    files.write_json('s3://b/x.json', {})


def test_a_folder_appears_whole(tmp_path):
  with files.whole_folder(tmp_path / 'a' / 'out') as folder:
    files.write_text(folder / 'text', 'x')
    assert not (tmp_path / 'a' / 'out').exists()
  assert (tmp_path / 'a' / 'out' / 'text').read_text() == 'x'
  with pytest.raises(ValueError, match='is there already'):
    with files.whole_folder(tmp_path / 'a'):
      raise AssertionError


def test_a_folder_that_failed_leaves_nothing(tmp_path):
  with pytest.raises(RuntimeError), files.whole_folder(tmp_path / 'out') as f:
    files.write_text(f / 'text', 'x')
    raise RuntimeError
  assert not list(tmp_path.iterdir())
