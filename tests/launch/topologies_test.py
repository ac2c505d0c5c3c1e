"""Names of topologies: what they are, and what is said of wrong ones."""

import dataclasses
import importlib.util
import math
import pathlib

import jax
import pytest

from rsfm_jax.cli import config as configs
from rsfm_jax.launch import chips
from rsfm_jax.launch import topologies
from rsfm_jax.sharding import mesh as meshes

MESHES = pathlib.Path(__file__).parents[2] / 'configs' / 'mesh'


@pytest.mark.parametrize(
  ('name', 'count', 'size'),
  [
    ('v4:2x2x1', 4, 4),
    ('v5e:2x4', 8, 8),
    ('v5p:4x4x4', 64, 64),
    ('v6e:16x16', 256, 256),
    ('7x:2x2x2', 8, 16),  # Two devices a chip.
    ('tpu7x:2x2x1', 4, 8),
    ('V5E:1x1', 1, 1),
    ('h200:8', 8, 8),
  ],
)
def test_a_name_gives_chips_and_devices(name, count, size):
  found = topologies.parse(name)
  assert (found.chips, found.size) == (count, size)


@pytest.mark.parametrize(
  'name',
  ['v5p', 'v5q:2x2x1', 'v5p:4x4', 'v5e:3x3', 'v5e:32x32', 'h200', 'h200:0', ''],
)
def test_a_wrong_name_lists_known_ones(name):
  with pytest.raises(ValueError, match=r'--topology.*v5[ep]:|--topology.*h200'):
    topologies.parse(name)


def test_a_slip_is_suggested():
  with pytest.raises(ValueError, match='Did you mean "v5p:4x4x8"'):
    topologies.parse('v5p:4x4x9x')
  with pytest.raises(ValueError, match='Did you mean "v5p:2x2x1"'):
    topologies.parse('v5q:2x2x1')


@pytest.mark.parametrize(
  ('name', 'wraps'),
  [
    ('v5p:2x2x4', (False, False, False)),
    ('v5p:4x4x4', (True, True, True)),
    ('v5e:8x16', (False, True, False)),
    ('v6e:16x16', (True, True, False)),
  ],
)
def test_whole_cubes_and_whole_sides_wrap(name, wraps):
  assert topologies.parse(name).wraps == wraps


def test_every_known_shape_parses():
  for chip in chips.CHIPS.values():
    for shape in chip.shapes:
      assert topologies.parse(f'{chip.name}:{shape}').chip is chip


def test_every_figure_of_a_chip_has_a_source():
  figures = {
    field.name
    for field in dataclasses.fields(chips.Chip)
    if field.name.endswith(('bytes', 'bandwidth', 'flops'))
  }
  for chip in chips.CHIPS.values():
    wanted = figures | ({'clock_hz'} if chip.platform == 'tpu' else set())
    assert wanted == set(chip.sources), chip.name


@pytest.mark.parametrize('name', [n for n in chips.CHIPS if n != 'h200'])
def test_peak_and_clock_agree_on_a_power_of_two_flops_a_cycle(name):
  chip = chips.CHIPS[name]
  a_cycle = chip.peak_flops / chip.clock_hz / chip.devices_per_chip
  assert math.log2(a_cycle) == pytest.approx(
    round(math.log2(a_cycle)), abs=0.01
  )


@pytest.mark.parametrize(
  'name', ['v4:2x2x1', 'v5e:1x1', 'v5p:2x2x1', 'v6e:2x4', '7x:2x2x1']
)
def test_the_compiler_knows_the_devices(libtpu, name):
  found = topologies.parse(name)
  devices = found.devices()
  assert len(devices) == found.size
  assert devices[0].platform == 'tpu'


@pytest.mark.parametrize(
  'path', sorted(MESHES.glob('*.py')), ids=lambda p: p.stem
)
def test_every_mesh_config_can_be_laid_out_on_its_topology(libtpu, path):
  config = configs.load(str(path))
  name = path.stem.replace('_', ':', 1).replace('_', 'x')
  sizes = config.mesh.to_dict()
  sizes.pop('placement')
  mesh = meshes.make_mesh(**sizes, devices=topologies.parse(name).devices())
  assert {k: mesh.shape[k] for k in sizes} == sizes


def test_the_compiler_leaves_the_default_backend_alone(libtpu):
  topologies.parse('v5e:2x2').devices()
  assert jax.default_backend() == 'cpu'


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(RuntimeError, match=r"pip install 'rsfm-jax\[tpu\]'"):
    topologies.parse('v5e:2x2').devices()


def test_gpus_are_faked_on_the_cpu():
  devices = topologies.parse('h200:8').devices()
  assert [d.platform for d in devices] == ['cpu'] * 8


def test_more_fake_gpus_than_jax_started_with_is_an_error():
  jax.devices()
  with pytest.raises(RuntimeError, match='JAX_NUM_CPU_DEVICES=512'):
    topologies.parse('h200:512').devices()
