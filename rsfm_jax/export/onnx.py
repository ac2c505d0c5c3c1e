"""A graph as ONNX, by jax2onnx in an environment of its own.

Weights and program are in one file, in float32, with a dynamic batch. Experts
are computed all on every token (`onnx_worker.ENGINE`), which gives the same
features and costs as many FFNs as there are experts: prune first.
"""

from collections.abc import Sequence
import pathlib
import subprocess
import tempfile
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from rsfm_jax.core import files
from rsfm_jax.core import trees
from rsfm_jax.export import graph as graphs
from rsfm_jax.export import onnx_environment as environment

RUNTIME = ('onnxruntime', 'numpy')
OPSET = 23


class Converted(NamedTuple):
  """An ONNX file and what onnxruntime answered with it, input by input."""

  data: bytes
  outputs: list[dict[str, np.ndarray]]


def converted(
  graph: graphs.Graph,
  params: Any,
  inputs: Sequence[dict[str, np.ndarray]],
  *,
  python: files.Path,
) -> Converted:
  """Converts in a process of the isolated environment, and runs the result.

  Args:
    graph: to be converted.
    params: its weights.
    inputs: what onnxruntime is asked, by names of the graph's inputs.
    python: of the environment; see `onnx_environment.ensure`.

  Raises:
    ValueError: weights of more than 2 GiB.
    RuntimeError: the converter or the runtime failed; its last words.
  """
  graphs.check_size(params)
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    files.write_json(folder / 'graph.json', graph.to_json())
    flat = {n: _float32(x) for n, x in trees.flatten(params).items()}
    safetensors.numpy.save_file(flat, folder / 'weights.safetensors')
    for i, arrays in enumerate(inputs):
      np.savez(folder / f'inputs_{i:03d}.npz', **arrays)
    _run([python, '-m', 'rsfm_jax.export.onnx_worker', folder], graph)
    outputs = []
    for path in sorted(folder.glob('outputs_*.npz')):
      with np.load(path) as arrays:
        outputs.append(dict(arrays))
    return Converted((folder / 'model.onnx').read_bytes(), outputs)


def _float32(x: Any) -> np.ndarray:
  x = np.asarray(x, order='C')
  return x.astype(np.float32) if x.dtype.kind not in 'biu' else x


def _run(command: list[files.Path], graph: graphs.Graph) -> None:
  done = subprocess.run(
    command,
    env=environment.environ(),
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    said = [line for line in done.stderr.splitlines() if line.strip()]
    raise RuntimeError(
      f'{graph.sensor.name} could not be converted to ONNX: '
      f'{said[-1] if said else f"exit code {done.returncode}"}'
    )
