import argparse

import pytest

from rsfm_jax.cli import data_synthesize
from rsfm_jax.data import store as stores


def _args(*words: str) -> argparse.Namespace:
  parser = argparse.ArgumentParser()
  data_synthesize.add_arguments(parser)
  return parser.parse_args(words)


def test_the_verb_writes_a_store_and_says_so(tmp_path, capsys):
  folder = str(tmp_path / 'store')
  args = _args(
    *('--out', folder, '--samples', '13', '--size', '32', '--workers', '0'),
    *('--sensors', 'opt,ms', '--change', '--sequence', '3', '--dates', '2'),
  )
  assert data_synthesize.run(args) == 0
  assert '13 scenes of 12 classes' in capsys.readouterr().out
  read = stores.Store(folder).read(12)
  assert {'change', 'opt/series', 'ms/sequence', 'tracks'} <= set(read)
  assert read['opt/sequence'].shape == (3, 32, 32, 3)


def test_defaults_are_ringmoe_and_clear_skies():
  options = data_synthesize.options_of(_args('--out', 'x'))
  names = [sensor.name for sensor in options.sensors]
  assert names == ['opt', 'sar_l1', 'sar_l2', 'ms']
  assert options.cloudiness == 0 and options.frames == 0
  dated = data_synthesize.options_of(_args('--out', 'x', '--dates', '3'))
  assert dated.cloudiness > 0


def test_an_unknown_sensor_is_named_with_a_suggestion():
  with pytest.raises(ValueError, match='sar_l1'):
    data_synthesize.options_of(_args('--out', 'x', '--sensors', 'sar_l'))


def test_coarse_sensors_are_named_with_their_factor(tmp_path):
  args = _args(
    *('--out', str(tmp_path / 's'), '--samples', '2', '--size', '32'),
    *('--workers', '0', '--sensors', 'opt,sentinel1_grd', '--dates', '2'),
    *('--coarse', 'sentinel1_grd=8'),
  )
  assert data_synthesize.run(args) == 0
  read = stores.Store(tmp_path / 's').read(1)
  assert read['opt/image'].shape == (32, 32, 3)
  assert read['sentinel1_grd/series'].shape == (2, 4, 4, 2)


@pytest.mark.parametrize('text', ['opt', 'ms=x', 'ms=2,ms=4', 'ms=-2'])
def test_a_factor_that_cannot_be_read_is_an_error(text):
  with pytest.raises(ValueError, match='SENSOR=N'):
    data_synthesize.options_of(_args('--out', 'x', '--coarse', text))
