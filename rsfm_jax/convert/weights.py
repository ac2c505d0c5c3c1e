"""Weights of other people's models: safetensors, and nothing else.

A pickle can run code when it is read, so no .pth is opened here; `ONE_LINER`
converts one elsewhere, where torch is installed.
"""

import pathlib

import numpy as np
import safetensors

SUFFIX = '.safetensors'
_PICKLES = ('.pth', '.pt', '.bin', '.ckpt', '.pkl')
_FLOATS = ('float16', 'bfloat16', 'float32', 'float64')

ONE_LINER = (
  'python -c "import sys, torch; from safetensors.torch import save_file; '
  "w = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
  "w = w.get('state_dict', w.get('model', w)); "
  'save_file({k: v.clone().contiguous() for k, v in w.items() '
  "if hasattr(v, 'shape')}, sys.argv[2])\" IN.pth OUT.safetensors"
)


def read(
  path: str | pathlib.Path, *, prefix: str = ''
) -> dict[str, np.ndarray]:
  """{name: array} of a safetensors file; floats become float32.

  Args:
    path: the file.
    prefix: only tensors whose names begin so are read, without it.

  Raises:
    ValueError: no safetensors file, a damaged one, no tensor under `prefix`,
      or values that are not finite.
  """
  path = pathlib.Path(path)
  check_kind(path)
  if not path.is_file():
    raise ValueError(f'--weights {path}: no such file.')
  try:
    with safetensors.safe_open(path, framework='np') as saved:
      names = [n for n in saved.keys() if n.startswith(prefix)]  # noqa: SIM118
      found = {n.removeprefix(prefix): saved.get_tensor(n) for n in names}
  except (safetensors.SafetensorError, TypeError, OSError) as error:
    raise ValueError(
      f'--weights {path} is damaged or no safetensors file: {error}'
    ) from error
  if not found:
    where = f' under --prefix {prefix!r}' if prefix else ''
    raise ValueError(f'--weights {path} holds no tensor{where}.')
  return {name: _checked(path, name, x) for name, x in found.items()}


def check_kind(path: str | pathlib.Path) -> None:
  """Refuses what may be a pickle, before a byte of it is read.

  Raises:
    ValueError: the name does not end in .safetensors.
  """
  path = pathlib.Path(path)
  if path.suffix in _PICKLES:
    raise ValueError(
      f'--weights {path}: {path.suffix} files are pickles, which can run code '
      f'when they are read. Where torch is installed, convert it:\n{ONE_LINER}'
    )
  if path.suffix != SUFFIX:
    raise ValueError(f'--weights {path}: a {SUFFIX} file is needed.')


def _checked(path: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
  if str(array.dtype) not in _FLOATS:
    return array  # Counters and indices: some rule may skip them.
  array = np.asarray(array, np.float32)
  if not np.isfinite(array).all():
    raise ValueError(
      f'--weights {path}: {name} has values that are not finite.'
    )
  return array
