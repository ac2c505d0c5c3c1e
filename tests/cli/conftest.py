"""A store of small scenes and a run of four steps, made once."""

import contextlib

import jax
import pytest

from rsfm_jax.cli import main
from rsfm_jax.sharding import mesh as meshes

CONFIG = """
from configs import base


def get_config():
  c = base.get_config(
      'tiny', image_size=16, patch_size=2, embed_dim=8, depths=(1, 1),
      heads=(1, 2), window=4, specialised=2, collaborative=2,
  )
  c.objective.mask_unit = 4
  c.data.crop.size = 16
  c.data.streams.paired = base.stream(
      ('opt', 'sar_l1', 'sar_l2', 'ms'), (('scenes', 'train', 1.0),), 8
  )
  c.train.total_steps = 4
  c.train.checkpoint_percent = 50.0
  c.train.log_steps = 1
  return c
"""


@contextlib.contextmanager
def alone():
  """Meshes without sizes of their own have one device: for what is no test of
  meshes, since a program for eight takes longer to compile."""
  whole = meshes.make_mesh

  def make_mesh(*, devices=None, **sizes):
    if devices is None and set(sizes.values()) <= {-1, 1}:
      devices = jax.devices()[:1]
    return whole(devices=devices, **sizes)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(meshes, 'make_mesh', make_mesh)
    yield


@pytest.fixture(scope='module')
def one_device():
  """Runs of this file take one device unless their config has a mesh."""
  with alone():
    yield


@pytest.fixture(scope='session')
def config(tmp_path_factory):
  path = tmp_path_factory.mktemp('config') / 'nano.py'
  path.write_text(CONFIG)
  return str(path)


@pytest.fixture(scope='session')
def stores(tmp_path_factory):
  """120 four-sensor scenes of 32 px: ten of each class."""
  root = tmp_path_factory.mktemp('stores')
  assert (
    main.main(
      [
        'data',
        'synthesize',
        '--out',
        str(root / 'scenes'),
        '--samples',
        '120',
        '--size',
        '32',
        '--workers',
        '0',
      ]
    )
    == 0
  )
  return root


@pytest.fixture(scope='session')
def pretrain(config, stores):
  """`pretrain(workdir, *overrides)` -> exit code; on one device."""

  def run(workdir, *overrides):
    words = ['pretrain', '--config', config, '--workdir', str(workdir)]
    with alone():
      return main.main([*words, f'--config.data.root={stores}', *overrides])

  return run


@pytest.fixture(scope='session')
def trained(pretrain, tmp_path_factory):
  """A finished run of four steps; tests must not write into it."""
  workdir = tmp_path_factory.mktemp('run')
  assert pretrain(workdir) == 0
  return workdir
