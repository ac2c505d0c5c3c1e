"""The isolated environment in which graphs become ONNX.

jax2onnx wants an older Orbax than this package (< 0.11.37), so that the two
cannot be installed together. The command makes a virtual environment of its
own, once, and keeps it under a name that is the hash of its pins. There the
package is imported from where it lies here, but for what needs Orbax.
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import flax
import jax

import rsfm_jax
from rsfm_jax.core import files

ROOT = pathlib.Path(rsfm_jax.__file__).resolve().parents[1]
# The converter and the runtime were tried in these versions; JAX and Flax are
# those of this process, so that the same program is traced.
PINS = (
  'jax2onnx==0.17.1',
  'onnxruntime==1.32.0',
  'safetensors==0.8.0',
  f'jax=={jax.__version__}',
  f'flax=={flax.__version__}',
)
_READY = 'ready.json'


def default_folder() -> pathlib.Path:
  """Where it is kept: `$XDG_CACHE_HOME` or ~/.cache, by Python and pins."""
  cache = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  told = json.dumps([sys.version_info[:2], PINS])
  name = hashlib.sha256(told.encode()).hexdigest()[:12]
  return pathlib.Path(cache) / 'rsfm_jax' / f'onnx-{name}'


def ensure(folder: files.Path | None = None) -> pathlib.Path:
  """The environment's Python; made with `venv` and pip where it is not there.

  Raises:
    RuntimeError: it could not be made; says what pip said.
    ValueError: the folder holds something else.
  """
  folder = pathlib.Path(folder or default_folder()).resolve()
  python = folder / 'bin' / 'python'
  if _ready(folder):
    return python
  with files.exclusive(folder.with_name(f'{folder.name}.making')):
    if _ready(folder):  # Another process made it meanwhile.
      return python
    if folder.exists() and not (folder / 'pyvenv.cfg').is_file():
      raise ValueError(
        f'--onnx_env {folder} is there and no environment of this command; '
        'choose another folder.'
      )
    shutil.rmtree(folder, ignore_errors=True)  # Half made.
    _run([sys.executable, '-m', 'venv', folder])
    _run([python, '-m', 'pip', 'install', '--quiet', *PINS])
    files.write_json(folder / _READY, {'pins': PINS})
  return python


def _ready(folder: pathlib.Path) -> bool:
  path = folder / _READY
  return path.is_file() and files.read_json(path)['pins'] == list(PINS)


def _run(command: list[files.Path]) -> None:
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    words = said[-1] if said else 'nothing'
    raise RuntimeError(
      'the environment for ONNX could not be made: '
      f'{" ".join(map(str, command))} said {words!r}. '
      'It needs a package index once; --onnx_env names one made elsewhere.'
    )


def environ() -> dict[str, str]:
  """For a process of that environment: this package, and CPUs alone."""
  kept = {k: v for k, v in os.environ.items() if k != 'PYTHONHOME'}
  return kept | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
