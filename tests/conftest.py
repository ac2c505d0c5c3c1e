"""Eight fake CPU devices, strict ranks, a compilation cache, shared samples."""

import gc
import os
import pathlib
import sys

from absl import flags
import jax
import pytest

os.environ.setdefault('RSFM_PROGRESS', '0')
# Tests compile far longer than they run. XLA's own kernels in place of the MLIR
# emitters, in one LLVM module, halve that, and take a third of the memory maps.
# Read when the first backend starts; the processes that tests start inherit it.
_FLAGS = (
  '--xla_cpu_use_fusion_emitters=false',
  '--xla_cpu_parallel_codegen_split_count=1',
)
_GIVEN = os.environ.get('XLA_FLAGS', '').split()
os.environ['XLA_FLAGS'] = ' '.join(
  _GIVEN + [flag for flag in _FLAGS if flag not in _GIVEN]
)

# Linux gives a process 65,530 memory maps, and every compiled program takes
# some; LLVM aborts when there are no more.
_MANY_MAPS = 30_000


# Files that take longest. Handed out last, one of them would run alone at the
# end; `--no-loadscope-reorder` keeps their place at the front.
_LONGEST = (
  'cli/launch_test.py',
  'cli/skysense_v2_test.py',
  'cli/model_verbs_test.py',
  'cli/finetune_skysense_test.py',
  'cli/finetune_test.py',
  'moe/expert_parallel_test.py',
  'models/skysense_v2_test.py',
  'cli/measure_tiles_test.py',
  'cli/finetune_tiles_test.py',
  'cli/training_test.py',
)


def pytest_configure(config):
  del config
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', 8)
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  jax.config.update('jax_disable_most_optimizations', True)
  cache = pathlib.Path(__file__).parent.parent / '.cache' / 'xla'
  jax.config.update('jax_compilation_cache_dir', str(cache))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(sys.argv[:1])  # Grain's workers read absl flags.


def pytest_collection_modifyitems(items):
  root = pathlib.Path(__file__).parent
  place = {root / name: i for i, name in enumerate(_LONGEST)}
  items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish(session):
  """Spares the collector what was imported, and most of its rounds."""
  del session
  gc.collect()
  gc.freeze()
  gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope='module', autouse=True)
def few_memory_maps():
  """Drops the programs of earlier files before the suite has too many."""
  yield
  maps = pathlib.Path('/proc/self/maps')
  if maps.is_file() and maps.read_bytes().count(b'\n') > _MANY_MAPS:
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """The folder of real samples and golden arrays, or a skip with a reason."""
  folder = pathlib.Path(os.environ.get('RSFM_SHARED', '../shared')).resolve()
  if not folder.is_dir():
    pytest.skip(f'RSFM_SHARED={folder} is absent')
  return folder
