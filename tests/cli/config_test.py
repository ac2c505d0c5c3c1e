"""Configs: every shipped one builds; typos are named with their neighbours."""

import os
import pathlib
import subprocess
import sys

import pytest

from rsfm_jax.cli import compose
from rsfm_jax.cli import config as configs

ROOT = pathlib.Path(__file__).parents[2]
SHIPPED = [
  path
  for folder in ('mesh', 'pretrain')
  for path in sorted((ROOT / 'configs' / folder).glob('*.py'))
]
TINY = str(ROOT / 'configs' / 'pretrain' / 'ringmoe_tiny.py')


@pytest.mark.parametrize('path', SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_config_builds_its_specs(path):
  config = configs.load(str(path))
  model = compose.model(config)
  compose.objective(config, model, total_steps=1000)
  compose.optimizer(config, total_steps=1000, batch_size=64)
  assert compose.system(config).images_per_step(config)


def test_overrides_reach_every_section():
  config = configs.load(
    TINY, ['--config.train.total_steps=7', '--config.model.window=4']
  )
  assert config.train.total_steps == 7
  assert compose.model(config).spec.window == 4


@pytest.mark.parametrize(
  ('override', 'named'),
  [
    ('--config.train.total_stepz=7', 'total_steps'),
    ('--config.model.windw=4', 'window'),
    ('--config.train.total_steps=many', 'total_steps'),
    ('--workdir2=x', '--config.'),
  ],
)
def test_a_bad_override_is_named_with_what_was_meant(override, named):
  with pytest.raises(ValueError, match=named):
    configs.load(TINY, [override])


def test_a_missing_file_is_named():
  with pytest.raises(ValueError, match='nowhere.py'):
    configs.load('nowhere.py')


def test_an_unknown_key_of_a_section_is_named_with_its_section(tmp_path):
  path = tmp_path / 'typo.py'
  path.write_text(
    pathlib.Path(TINY)
    .read_text()
    .replace('return c', 'c.model.windo = 3\n  return c')
  )
  with pytest.raises(ValueError, match=r'config\.model\.windo .*"window"'):
    compose.model(configs.load(str(path)))


def test_two_durations_for_one_thing_are_refused():
  config = configs.load(TINY, ['--config.optim.warmup_steps=10'])
  with pytest.raises(ValueError, match='warmup_steps.*warmup_percent'):
    compose.optimizer(config, total_steps=100, batch_size=8)


def test_a_config_is_found_by_the_console_script_from_anywhere(tmp_path):
  """Nothing puts the checkout on the path of an installed program."""
  code = (
    'import sys; sys.path = [p for p in sys.path if p not in ("", sys.argv[1])]'
    '; from rsfm_jax.cli import config; '
    'print(config.load(sys.argv[1] + "/configs/pretrain/ringmoe_tiny.py").seed)'
  )
  found = subprocess.run(
    [sys.executable, '-c', code, ROOT.as_posix()],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )
  assert found.stdout.strip() == '0', found.stderr
