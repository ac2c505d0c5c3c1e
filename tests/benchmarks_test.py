"""The programs of `benchmarks/`: their sums on known figures, and gpu.sh."""

import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import checkpoint
from benchmarks import compile as compile_benchmark
from benchmarks import export
from benchmarks import input as input_benchmark
from benchmarks import predict
from benchmarks import skysense_step
from benchmarks import swin_torch
from benchmarks import train_step
from rsfm_jax.cli import config as configs
from rsfm_jax.cli import training
from rsfm_jax.models import accounting
from rsfm_jax.models import sizes
from rsfm_jax.train import checkpoint as checkpoints

FOLDER = pathlib.Path(__file__).parent.parent / 'benchmarks'
NANO = sizes.ringmoe_spec(
  'tiny',
  image_size=16,
  embed_dim=8,
  depths=(1, 1),
  heads=(1, 2),
  window=4,
  specialised=2,
  collaborative=2,
)


def program(name, *args):
  return subprocess.run(
    [sys.executable, FOLDER / f'{name}.py', *args],
    capture_output=True,
    text=True,
    timeout=120,
  )


def test_help_comes_without_a_word_from_a_library():
  """Options and the docstring, without a word from a library."""
  done = program('compile', '--help')
  assert done.returncode == 0 and not done.stderr
  assert '--quick' in done.stdout and '--json FILE' in done.stdout


def test_every_program_takes_the_same_options():
  for path in FOLDER.glob('*.py'):
    text = path.read_text()
    assert 'bench.options(__doc__)' in text, path
    assert f"bench.finish(args, '{path.stem}', " in text, path


# Checkpoints.


class Saved:
  """Checkpoints that are never on disk before somebody waits."""

  def __init__(self):
    self.calls = []

  def save(self, step, state, metadata):
    self.calls.append(('save', step))

  def wait(self):
    self.calls.append(('wait',))


def test_every_other_interval_begins_with_a_save():
  saved = Saved()
  hook = checkpoint.Intervals(saved, 2, last=14)
  state = {'step': np.int32(0)}
  for step in range(1, 15):
    if hook.due(step):
      hook.run(step, state)
  assert saved.calls == [
    ('save', 2),
    ('wait',),
    ('save', 6),
    ('wait',),
    ('save', 10),
    ('wait',),
  ]


def test_a_stall_is_what_an_interval_with_a_save_takes_longer():
  hook = checkpoint.Intervals(Saved(), 2, last=10)
  # Intervals of two steps: plain, save, plain, save, plain.
  seconds = [1.0, 1.0, 9.0, 1.0, 1.1, 1.0, 1.5, 1.2, 1.0, 1.1]
  for step, value in enumerate(seconds, 1):
    hook.metrics(step, {'seconds/step': value})
  hook.late = [0.0, 0.0]
  # The first save warms up: (1.5 + 1.2) - ((1.1 + 1.0) + (1.0 + 1.1)) / 2.
  assert hook.stalls() == pytest.approx([0.6])
  # A wait at the end stands in the next interval and counts to the save's.
  hook.late = [0.0, 0.1]
  assert hook.stalls() == pytest.approx([0.6 + 0.1 + 0.05])


def test_noise_is_a_whole_state_that_does_not_compress(tmp_path):
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = {
    'params': {
      'w': jax.ShapeDtypeStruct((256, 64), np.float32, sharding=one),
    },
    'step': jax.ShapeDtypeStruct((), np.int32, sharding=one),
  }
  state = checkpoint.noise(abstract)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
    lambda x: (x.shape, x.dtype), abstract
  )
  assert np.unique(state['params']['w']).size > 16_000
  saved = checkpoints.Checkpoints(tmp_path)
  saved.save(1, state, {})
  saved.close()
  files = (path for path in tmp_path.rglob('*') if path.is_file())
  assert sum(path.stat().st_size for path in files) > 0.85 * 256 * 64 * 4


@pytest.mark.skipif(
  not pathlib.Path('/proc/self/io').is_file(), reason='no /proc/self/io'
)
def test_bytes_that_are_read_are_counted(tmp_path):
  path = tmp_path / 'x'
  path.write_bytes(bytes(1 << 20))
  before = checkpoint._bytes_read()
  path.read_bytes()
  assert 0 <= checkpoint._bytes_read() - before - (1 << 20) < 1 << 16


# Estimates and the loader.


def test_giants_are_the_mesh_configs_on_their_topologies():
  cases = compile_benchmark.giants()
  assert ('configs/mesh/v5p_4x4x4.py', 'v5p:4x4x4') in cases
  for case in cases:
    assert compile_benchmark.parse('@'.join(case)) == case


@pytest.mark.parametrize(
  'text, message',
  [
    ('configs/nothing.py@v5e:1x1', 'is no file'),
    ('configs/pretrain/ringmoe_tiny.py', 'no CONFIG@TOPOLOGY'),
    ('configs/pretrain/ringmoe_tiny.py@v99:1', 'not a topology'),
  ],
)
def test_a_wrong_case_is_refused_before_any_compile(text, message):
  with pytest.raises(ValueError, match=message):
    compile_benchmark.parse(text)


def test_a_failed_compile_is_a_row_that_says_why(monkeypatch):
  failed = subprocess.CompletedProcess([], 2, '', 'W x\nrsfm: no libtpu\n')
  monkeypatch.setattr(subprocess, 'run', lambda *a, **k: failed)
  row = compile_benchmark.estimate(compile_benchmark.QUICK[0])
  assert row['error'] == 'rsfm: no libtpu'
  assert compile_benchmark.shown(row)['fits'] == 'rsfm: no libtpu'


def test_lines_of_data_bench_become_rows():
  line = (
    f'{"scenes":24} {"sar_l1":16} {812.4:10.0f} {13.25:8.1f} {0.0312:16.1%}'
  )
  assert input_benchmark.parse(line) == {
    'sensor': 'sar_l1',
    'samples_per_second': 812.0,
    'mb_per_second': 13.2,
    'waited': 0.031,
  }


# Train steps.


def test_the_dense_twin_has_the_active_flops_of_the_routed_model():
  found = train_step.variants(NANO)
  routed, dense = found['capacity'], found['dense twin']
  for sensor in routed.sensors:
    ratio = accounting.flops(routed, sensor) / accounting.flops(dense, sensor)
    assert 1 <= ratio < 1.05  # Routers.


def test_rows_tell_speed_ratio_and_mfu(monkeypatch):
  counts = dict.fromkeys(NANO.sensors, 1)
  batch = train_step.noise(NANO, counts)
  dense = train_step.make(train_step.variants(NANO)['dense twin'], batch)
  flops = 3 * sum(
    accounting.flops(train_step.variants(NANO)['dense twin'], s)
    for s in NANO.sensors
  )
  assert dense.flops == flops and dense.needs > 0
  wall = train_step.time_in_turn({'dense twin': dense}, batch, 2)
  assert len(wall['dense twin']) == 2
  wall = {'capacity': [0.3, 0.4], 'dense twin': [0.1, 0.2]}
  runs = {'capacity': dense, 'dense twin': dense}
  about = {'dtype': 'bfloat16', 'images': 4}
  monkeypatch.setattr(train_step, 'peak_flops', lambda *_: 10.0 * flops)
  row = train_step.rows_of(runs, wall, about)[0]
  assert row['step_seconds'] == pytest.approx(0.35)
  assert row['ratio'] == pytest.approx(2.5)
  assert row['images_per_second'] == pytest.approx(4 / 0.35)
  assert row['mfu'] == pytest.approx(1 / 0.35 / 10)


def test_pytorch_stands_beside_the_dense_twin():
  twin = {'variant': 'dense twin', 'step_seconds': 0.2}
  rival = {'images': 8, 'dtype': 'bfloat16', 'step_seconds': 0.1}
  row = train_step.rivals_of([twin], [rival], 'tiny')[0]
  dense = train_step.variants(sizes.ringmoe_spec('tiny'))['dense twin']
  assert row['ratio'] == pytest.approx(0.5) and row['mfu'] is None
  assert row['flops'] == 24 * accounting.flops(dense, 'opt')


def test_peaks_are_known_by_device_kind_in_bfloat16_only():
  class Device:
    device_kind = 'NVIDIA H200'

  assert train_step.peak_flops(Device(), 'bfloat16') == 989e12
  assert train_step.peak_flops(Device(), 'float32') is None
  assert train_step.peak_flops(jax.devices()[0], 'bfloat16') is None
  Device.device_kind = 'TPU7x'  # Two devices to a chip.
  assert train_step.peak_flops(Device(), 'bfloat16') == 2307e12 / 2


def test_pytorch_is_skipped_with_a_reason(monkeypatch):
  monkeypatch.setattr(swin_torch.importlib.util, 'find_spec', lambda name: None)
  assert swin_torch.missing('cuda') == 'torch is not installed'


# gpu.sh, with a stand-in for Python.

TOOLS = ('bash', 'cat', 'dirname', 'env', 'mkdir', 'sed', 'tail', 'tee')
# It answers what the script asks; `absent`, `gpu` and `fails` say how.
PYTHON = """
case "$*" in
  *version_info*) echo {version} ;;
  *jax.devices*) echo "{gpu}" ;;
  *"import {absent}"*) echo "ModuleNotFoundError: {absent}" >&2; exit 1 ;;
  *metadata.version*) echo 1.2.3 ;;
  *{fails}.py*) echo broken; exit 1 ;;
  *.py*) echo "a table" ;;
esac
"""


@pytest.fixture
def gpu(tmp_path):
  """`gpu(*args, ...)` runs the script; `.calls()` are those of Python."""
  folder = tmp_path / 'bin'
  folder.mkdir()
  for tool in TOOLS:
    (folder / tool).symlink_to(shutil.which(tool))
  log = tmp_path / 'calls'
  log.touch()

  def run(
    *args,
    version='3.11',
    gpu='gpu 1 NVIDIA H200',
    absent='none',
    fails='none',
    smi=None,
    **environ,
  ):
    python = folder / 'python'
    body = PYTHON.format(version=version, gpu=gpu, absent=absent, fails=fails)
    first = f'#!{shutil.which("bash")}\n'
    note = f'echo "$CUDA_VISIBLE_DEVICES:$JAX_PLATFORMS: $*" >> {log}'
    python.write_text(f'{first}{note}\n{body}')
    python.chmod(0o755)
    if smi:
      (folder / 'nvidia-smi').write_text(f'{first}echo {smi}\n')
      (folder / 'nvidia-smi').chmod(0o755)
    return subprocess.run(
      [shutil.which('bash'), FOLDER / 'gpu.sh', *map(str, args)],
      env={'PATH': str(folder), 'PYTHON': str(python), **environ},
      cwd=tmp_path,
      capture_output=True,
      text=True,
      timeout=60,
    )

  run.calls = lambda: [
    line for line in log.read_text().splitlines() if '.py ' in line
  ]
  return run


def test_bash_reads_it():
  done = subprocess.run(['bash', '-n', FOLDER / 'gpu.sh'], capture_output=True)
  assert done.returncode == 0, done.stderr


def test_it_measures_everything_on_one_gpu_into_a_folder(gpu, tmp_path):
  done = gpu(
    '--out', tmp_path / 'out', CUDA_VISIBLE_DEVICES='2,3', JAX_PLATFORMS='cpu'
  )
  assert done.returncode == 0, done.stderr
  calls = [re.sub(r'^2:: \S*/', '', line) for line in gpu.calls()]
  rows = tmp_path / 'out'
  assert calls == [
    f'moe_layer.py --json {rows}/moe_layer.json',
    f'train_step.py --size tiny --json {rows}/train_step_tiny.json',
    'train_step.py --size base --dtype bfloat16 --torch --json '
    f'{rows}/train_step_base.json',
    f'checkpoint.py --json {rows}/checkpoint.json',
  ]
  assert (rows / 'moe_layer.txt').read_text() == 'a table\n'
  assert 'a table' in done.stdout


def test_quick_goes_to_every_program(gpu, tmp_path):
  done = gpu('--quick', '--out', tmp_path / 'out')
  assert done.returncode == 0
  assert len(gpu.calls()) == 4
  assert all(' --quick --json ' in line for line in gpu.calls())


def test_check_states_the_wheels_and_runs_nothing(gpu):
  done = gpu('--check')
  assert done.returncode == 0 and not gpu.calls()
  pins = (FOLDER.parent / 'requirements.txt').read_text()
  jax_pin, newer_pin = re.findall(r'^jax==([\d.]+); python', pins, re.M)
  assert f"'jax[cuda13]=={jax_pin}'" in done.stdout
  assert 'pip install --no-index --find-links wheels' in done.stdout
  assert f'1.2.3   (pinned: {jax_pin})' in done.stdout
  newer = gpu('--check', version='3.12').stdout
  assert f"'jax[cuda13]=={newer_pin}'" in newer
  for module in re.findall(r'^  \S+ +(\S+) 1\.2\.3', done.stdout, re.M):
    assert module in {'torch', 'timm'} or f'\n{module}==' in pins


def test_what_is_missing_is_said_by_name(gpu):
  done = gpu(absent='orbax.checkpoint')
  assert done.returncode == 2 and not gpu.calls()
  assert 'missing: orbax-checkpoint' in done.stderr
  assert 'MISSING  orbax-checkpoint==' in done.stdout
  assert 'ModuleNotFoundError' in done.stdout


def test_pytorch_is_optional(gpu, tmp_path):
  done = gpu('--out', tmp_path / 'out', absent='torch')
  assert done.returncode == 0 and 'absent   torch' in done.stdout


@pytest.mark.parametrize(
  'smi, message',
  [(None, 'no GPU, or no driver'), ('H200,550.54', 'shows: H200,550.54')],
)
def test_without_a_gpu_nothing_runs(gpu, smi, message):
  done = gpu(gpu='cpu 1 cpu', smi=smi)
  assert done.returncode == 2 and not gpu.calls()
  assert 'sees no GPU; it has: cpu 1 cpu' in done.stderr
  assert message in done.stderr


def test_a_failure_is_named_and_the_rest_runs(gpu, tmp_path):
  done = gpu('--out', tmp_path / 'out', fails='moe_layer')
  assert done.returncode == 1 and 'failed: moe_layer;' in done.stderr
  assert len(gpu.calls()) == 4
  assert (tmp_path / 'out' / 'moe_layer.txt').read_text() == 'broken\n'


@pytest.mark.parametrize(
  'args, environ, message',
  [
    (['--ouut', 'x'], {}, 'unknown option --ouut'),
    (['--out'], {}, '--out needs a folder'),
    ([], {'version': '3.9'}, '3.11 or newer is needed'),
    ([], {'PYTHON': '/nowhere/python'}, 'set PYTHON='),
  ],
)
def test_bad_usage_is_told(gpu, args, environ, message):
  done = gpu(*args, **environ)
  assert done.returncode == 2 and message in done.stderr


def test_help_is_the_head_of_the_script(gpu):
  done = gpu('--help')
  assert done.returncode == 0
  assert 'jax[cuda13]' in done.stdout and 'set -euo' not in done.stdout


# SkySense V2's step.


def test_a_step_is_compared_with_its_parts_round_by_round():
  wall = {
    'step': [2.0, 4.0, 3.0],
    'student': [1.0, 2.0, 2.0],
    'teacher': [0.5, 1.0, 0.5],
    'views': [0.1, 0.1, 0.3],
    'sinkhorn': [0.2, 0.2, 0.3],
  }
  rows = skysense_step.rows_of(wall, {'tiles': 4})
  assert [row['part'] for row in rows] == list(wall)
  assert rows[0]['ratio'] == pytest.approx(4 / 3)  # Of 4/3, 4/3 and 6/5.
  assert rows[3]['share'] == pytest.approx(0.05)  # Of 5, 2.5 and 10 %.
  assert rows[0]['seconds'] == 3.0 and rows[0]['tiles'] == 4


def test_sinkhorn_is_asked_what_a_step_asks_it():
  config = configs.load(str(skysense_step.CONFIG), skysense_step.QUICK)
  planned = training.abstract(
    config, mesh_sizes={'data': 1}, devices=jax.devices()[:1]
  )
  work = skysense_step.sinkhorn_work(planned)
  # Of every sensor and the fused features: pixels, objects, images; then the
  # queries and the prototypes.
  *targets, prototypes = work.logits
  assert {shape[-1] for shape in targets} == {config.objective.outputs}
  assert len(targets) == 4 * 3 + 1
  assert prototypes[0] == 4 and prototypes[-1] == config.objective.prototypes
  assert len(work.clusters) == 4 * 2  # Of global and of local views.


# Export.


def test_exported_and_jitted_programs_take_turns():
  calls = []
  runs = {n: lambda x, n=n: calls.append(n) for n in ('jitted', 'stablehlo')}
  wall = export.time_in_turn(runs, [np.zeros(1)], 2)
  assert calls[2:] == ['jitted', 'stablehlo', 'stablehlo', 'jitted']
  assert {name: len(seconds) for name, seconds in wall.items()} == {
    'jitted': 2,
    'stablehlo': 2,
  }
  wall = {'jitted': [1.0, 2.0, 4.0], 'stablehlo': [1.1, 2.0, 8.0]}
  row = export.row_of(wall, batch=3)
  assert row['ratio'] == pytest.approx(1.1) and row['jitted_seconds'] == 2.0


# Maps of scenes.


def test_what_predict_says_of_a_map_becomes_a_row():
  words = (
    'm.tif: 96 x 78 x 1 uint8 of 0.0 million pixels\n'
    '  12 of 34 windows in 5.6 s, waited for input and output 7.8% of it; '
    'peak memory 90 MiB\n'
  )
  assert predict.parse(words) == {
    'windows': 34,
    'seconds': 5.6,
    'waited': pytest.approx(0.078),
  }
