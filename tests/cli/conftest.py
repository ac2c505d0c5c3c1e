"""A store of small scenes and a run of four steps, made once."""

import pytest

from rsfm_jax.cli import main

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
  """`pretrain(workdir, *overrides)` -> exit code."""

  def run(workdir, *overrides):
    return main.main(
      [
        'pretrain',
        '--config',
        config,
        '--workdir',
        str(workdir),
        f'--config.data.root={stores}',
        *overrides,
      ]
    )

  return run


@pytest.fixture(scope='session')
def trained(pretrain, tmp_path_factory):
  """A finished run of four steps; tests must not write into it."""
  workdir = tmp_path_factory.mktemp('run')
  assert pretrain(workdir) == 0
  return workdir
