"""Real programs of the TPU compiler, on a machine without a TPU."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import pytest

from rsfm_jax.launch import aot
from rsfm_jax.launch import estimate
from rsfm_jax.launch import topologies
from rsfm_jax.sharding import mesh as meshes

# Written by `RSFM_GOLDEN=write`; the compiler is part of what they hold.
GOLDEN = pathlib.Path(__file__).parent.parent / 'golden' / 'aot_ffn.json'
NAMES = ('v5e:2x2', 'v5p:2x2x1')


def compiled(ffn, name, **options):
  topology = topologies.parse(name)
  step = ffn.step(topology.devices(), **options)
  return aot.compile_step(step, topology)


@pytest.fixture(scope='module')
def reports(ffn, libtpu):
  return {name: compiled(ffn, name) for name in NAMES}


def test_a_small_step_fits_and_is_described(reports):
  found = reports['v5p:2x2x1']
  assert found.fits
  assert (found.chips, found.images) == (4, 4)
  assert found.mesh == {'data': 1, 'fsdp': 4, 'expert': 1, 'tensor': 1}
  weights = 2 * 2 * 256 * 1024 * 4 // 4
  held = found.bytes_per_chip
  assert held['params'] == held['optimizer'] == weights
  assert held['batch'] == 256 * 256 * 2
  assert held['temporaries'] > 0
  assert held['total'] == sum(n for k, n in held.items() if k != 'total')
  assert held['total'] < found.hbm_bytes_per_chip


def test_times_follow_from_the_estimate(reports):
  found = reports['v5p:2x2x1']
  low, high = found.step_seconds_range
  seconds = found.estimated_step_seconds
  assert 0 < low <= seconds <= high
  assert found.images_per_second == pytest.approx(4 / seconds)
  assert found.mfu == pytest.approx(found.flops / seconds / 4 / 459e12)
  assert found.executed_flops == found.flops  # Nothing is recomputed.
  cycles = sum(found.cycles_by_kind.values())
  assert cycles == pytest.approx(seconds * 1.75e9, abs=10)
  assert 0 < found.exposed_communication < 1


def test_blind_spots_are_stated_with_the_figures(reports):
  for found in reports.values():
    assert all(spot in found.notes[0] for spot in estimate.BLIND_SPOTS)


@pytest.mark.parametrize('name', NAMES)
def test_fsdp_gathers_weights_twice_and_scatters_gradients(reports, name):
  found = reports[name].collectives
  matrix = 256 * 1024 * 2  # bf16.
  # Two matrices of two layers, for the forward and for the backward pass.
  assert found['all-gather'] == {'count': 8, 'bytes': 8 * matrix}
  assert found['reduce-scatter']['bytes'] == 4 * matrix
  assert found['all-reduce'] == {'count': 1, 'bytes': 4}  # The loss.


@pytest.mark.parametrize('name', NAMES)
def test_collectives_and_cycles_are_golden(reports, name):
  found = {
    'collectives': reports[name].collectives,
    'cycles_by_kind': reports[name].cycles_by_kind,
    'bytes_per_chip': reports[name].bytes_per_chip,
  }
  version = importlib.metadata.version('libtpu')
  if os.environ.get('RSFM_GOLDEN') == 'write':
    held = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    held |= {'libtpu': version, name: found}
    GOLDEN.write_text(json.dumps(held, indent=1, sort_keys=True) + '\n')
  golden = json.loads(GOLDEN.read_text())
  if golden['libtpu'] != version:
    pytest.skip(f'written with libtpu {golden["libtpu"]}, this is {version}')
  assert golden[name] == json.loads(json.dumps(found))


def test_the_same_step_gives_the_same_report(ffn, reports):
  def timeless(report):
    return dataclasses.replace(report, compile_seconds=0.0)

  again = compiled(ffn, 'v5e:2x2')
  assert timeless(again) == timeless(reports['v5e:2x2'])


def test_a_report_is_json(reports):
  found = json.loads(json.dumps(reports['v5e:2x2'].to_json()))
  for key in (
    'fits',
    'bytes_per_chip',
    'flops',
    'estimated_step_seconds',
    'images_per_second',
    'mfu',
    'collectives',
  ):
    assert found[key] is not None


def test_a_dense_ffn_is_near_the_peak(libtpu):
  """0.91 of a v5p's peak: the ceiling that others are measured against."""
  topology = topologies.parse('v5p:2x2x1')
  mesh = meshes.make_mesh(devices=topology.devices())
  tokens, width = 8192, 1408

  def array(shape, *spec):
    sharding = NamedSharding(mesh, P(*spec))
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)

  def ffn(w_in, w_out, x):
    return jax.nn.gelu(x @ w_in) @ w_out

  def both_ways(w_in, w_out, x, dy):
    y, back = jax.vjp(ffn, w_in, w_out, x)
    return y, back(dy)

  local = jax.shard_map(
    both_ways,
    mesh=mesh,
    in_specs=(P(), P(), P('data'), P('data')),
    out_specs=P('data'),
    check_vma=False,  # Gradients stay where they are made.
  )
  x = array((4 * tokens, width), 'data')
  lowered = jax.jit(local).lower(
    array((width, 4 * width)), array((4 * width, width)), x, x
  )
  with aot.uncached():
    text = lowered.compile().as_text()
  flops = 3 * 2 * 2 * tokens * width * 4 * width
  found = estimate.estimate(text, topology.chip)
  assert flops / found.seconds / 459e12 == pytest.approx(0.91, abs=0.01)
  assert found.matmul_flops == flops


def test_a_state_that_is_too_large_is_not_compiled(ffn, libtpu):
  found = compiled(ffn, 'v5e:2x2', width=8192, layers=24)
  assert not found.fits
  assert found.compile_seconds == 0.0
  assert found.estimated_step_seconds is None
  assert [a.name.split('/')[-1] for a in found.largest].count('w_in') >= 1
  assert len(found.largest) == 3
  # Weights and momentum: 2 x 2 x 24 x 8192 x 32768 x 4 bytes.
  assert '96.0 GiB' in found.notes[0]
  assert '7 chips' in found.notes[0]


def test_a_step_that_is_too_large_names_its_largest_arrays(ffn, libtpu):
  found = compiled(ffn, 'v5e:2x2', batch=64, tokens=65536, layers=2)
  assert not found.fits
  assert found.estimated_step_seconds is None
  assert found.bytes_per_chip['total'] > found.hbm_bytes_per_chip
  assert len(found.largest) == 3
  # Hidden activations of two layers: 2 x 16 x 65,536 x 1,024 bf16.
  assert found.largest[0].nbytes == 2 * 2 * 16 * 65536 * 1024
  assert 'dot_general' in found.largest[0].name
  assert 'RESOURCE_EXHAUSTED' in found.notes[0]


def test_what_is_too_large_need_not_be_explained(ffn, libtpu):
  topology = topologies.parse('v5e:2x2')
  step = ffn.step(topology.devices(), batch=64, tokens=65536, layers=2)
  found = aot.compile_step(step, topology, when_too_large='stop')
  assert not found.fits
  assert found.bytes_per_chip['total'] > found.hbm_bytes_per_chip


def test_another_refusal_is_an_error(ffn, libtpu):
  topology = topologies.parse('v5e:2x2')
  step = ffn.step(topology.devices())

  class Refusing:
    def lower(self, *args):
      return self

    def compile(self, **options):
      raise jax.errors.JaxRuntimeError('INTERNAL: no such instruction')

  with pytest.raises(RuntimeError, match='v5e:2x2 refuses: INTERNAL'):
    aot.compile_step(step._replace(step_fn=Refusing()), topology)


def test_memory_is_planned_before_there_is_a_program(ffn, libtpu, reports):
  topology = topologies.parse('v5p:2x2x1')
  step = ffn.step(topology.devices())
  report, running = aot.plan_memory(step, topology)
  running.join()
  whole = reports['v5p:2x2x1']
  assert report.fits and report.estimated_step_seconds is None
  for kind in ('params', 'optimizer', 'other_state', 'batch', 'outputs'):
    assert report.bytes_per_chip[kind] == whole.bytes_per_chip[kind]
  # Places add up to no less than the fullest moment.
  most = report.bytes_per_chip['temporaries']
  assert most >= whole.bytes_per_chip['temporaries'] > 0
  assert 'memory alone' in report.notes[0]


def test_a_plan_that_is_too_large_names_its_largest_arrays(ffn, libtpu):
  topology = topologies.parse('v5e:2x2')
  step = ffn.step(topology.devices(), batch=64, tokens=65536, layers=2)
  report, running = aot.plan_memory(step, topology)
  running.join()
  assert not report.fits
  assert report.largest[0].nbytes == 2 * 2 * 16 * 65536 * 1024


def test_a_plan_of_a_gpu_is_refused(ffn):
  topology = topologies.parse('h200:4')
  with pytest.raises(
    ValueError, match='h200:4: memory is planned ahead for TP'
  ):
    aot.plan_memory(ffn.step(topology.devices()), topology)


def test_gpus_get_sharding_and_memory_but_no_time(ffn):
  found = compiled(ffn, 'h200:4')
  assert found.fits
  assert found.estimated_step_seconds is None
  assert found.mfu is None
  assert found.collectives['all-gather']['count'] > 0
  assert found.bytes_per_chip['params'] == 2 * 2 * 256 * 1024 * 4 // 4
  assert 'only the sharding' in found.notes[0]


def test_the_compilation_cache_is_left_alone():
  before = jax.config.jax_persistent_cache_min_compile_time_secs
  with aot.uncached():
    assert jax.config.jax_persistent_cache_min_compile_time_secs > 1e6
  assert jax.config.jax_persistent_cache_min_compile_time_secs == before
