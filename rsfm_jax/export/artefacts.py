"""What stands beside an exported graph: its contract, and how to load it."""

from collections.abc import Mapping, Sequence
import hashlib
import pathlib
from typing import Any, NamedTuple

from rsfm_jax.core import files
from rsfm_jax.export import graph as graphs
from rsfm_jax.export import heads
from rsfm_jax.export import onnx
from rsfm_jax.export import stablehlo

FORMAT = 'rsfm_jax.graph/1'


class Format(NamedTuple):
  """A portable format.

  Attributes:
    suffix: of its files.
    runtime: what pip installs to run one.
    about: facts of every file of it, for the contract.
    loader: name of the example.
    code: of the example.
  """

  suffix: str
  runtime: Sequence[str]
  about: Mapping[str, Any]
  loader: str
  code: str


_LOAD_STABLEHLO = '''\
"""python load_stablehlo.py NAME.stablehlo inputs.npz outputs.npz

Needs nothing but: pip install {runtime}
Names and shapes of inputs and outputs stand in NAME.stablehlo.json.
"""

import json, sys
import jax, jax.export, numpy as np

path, inputs, outputs = sys.argv[1:]
names = [entry['name'] for entry in json.load(open(path + '.json'))['inputs']]
run = jax.jit(jax.export.deserialize(bytearray(open(path, 'rb').read())).call)
arrays = np.load(inputs)
features = run(*[arrays[name].astype(np.float32) for name in names])
np.savez(outputs, **features)
'''
_LOAD_ONNX = '''\
"""python load_onnx.py NAME.onnx inputs.npz outputs.npz

Needs nothing but: pip install {runtime}
Names and shapes of inputs and outputs stand in NAME.onnx.json.
"""

import sys
import numpy as np, onnxruntime

path, inputs, outputs = sys.argv[1:]
run = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
arrays = {{name: x.astype(np.float32) for name, x in np.load(inputs).items()}}
names = [output.name for output in run.get_outputs()]
np.savez(outputs, **dict(zip(names, run.run(names, arrays))))
'''
_LOAD_SAFETENSORS = '''\
"""python load_safetensors.py model.safetensors

Needs nothing but: pip install {runtime}
The spec and the sensor contract are JSON in the file's own header.
"""

import json, sys
import safetensors

with safetensors.safe_open(sys.argv[1], framework='np') as saved:
  weights = {{name: saved.get_tensor(name) for name in saved.keys()}}
  about = {{name: json.loads(text) for name, text in saved.metadata().items()}}
bands = {{
  name: [band['name'] for band in sensor['bands']]
  for name, sensor in about['contract']['sensors'].items()
}}
print(about['spec']['model'], bands, len(weights), 'arrays')
'''

FORMATS: dict[str, Format] = {
  'stablehlo': Format(
    '.stablehlo',
    stablehlo.RUNTIME,
    {
      'platforms': list(stablehlo.PLATFORMS),
      'experts': 'rows sorted by expert, none dropped',
      'empty_batch': 'ValueError',
    },
    'load_stablehlo.py',
    _LOAD_STABLEHLO,
  ),
  'onnx': Format(
    '.onnx',
    onnx.RUNTIME,
    {
      'opset': onnx.OPSET,
      'experts': 'every expert on every token, weighted',
      'empty_batch': 'an error of the runtime',
    },
    'load_onnx.py',
    _LOAD_ONNX,
  ),
}
SAFETENSORS_RUNTIME = ('safetensors', 'numpy')


def write(
  folder: pathlib.Path,
  name: str,
  data: bytes,
  graph: graphs.Graph,
  *,
  outputs: Mapping[str, Sequence[str | int]],
  content_hash: str,
  kind: str,
) -> pathlib.Path:
  """Writes a graph's file with its contract and, once, the example.

  Args:
    folder: where to.
    name: of the file, without the format's suffix.
    data: its bytes.
    graph: what it computes.
    outputs: {name: shape}.
    content_hash: of the parameters.
    kind: one of `FORMATS`.
  """
  form = FORMATS[kind]
  path = folder / f'{name}{form.suffix}'
  files.write_bytes(path, data)
  files.write_json(
    path.with_name(f'{path.name}.json'),
    contract_json(graph, outputs=outputs)
    | dict(form.about)
    | {
      'kind': kind,
      'runtime': list(form.runtime),
      'content_hash': content_hash,
      'sha256': hashlib.sha256(data).hexdigest(),
    },
  )
  write_loader(folder, form.loader, form.code, form.runtime)
  return path


def write_loader(
  folder: pathlib.Path, name: str, code: str, runtime: Sequence[str]
) -> None:
  files.write_text(folder / name, code.format(runtime=' '.join(runtime)))


def write_safetensors_loader(folder: pathlib.Path) -> None:
  write_loader(
    folder, 'load_safetensors.py', _LOAD_SAFETENSORS, SAFETENSORS_RUNTIME
  )


def contract_json(
  graph: graphs.Graph, *, outputs: Mapping[str, Sequence[str | int]]
) -> dict[str, Any]:
  """What a caller has to know, whatever the format."""
  ports = lambda shapes: [
    {'name': name, 'dtype': 'float32', 'shape': list(shape)}
    for name, shape in shapes.items()
  ]
  recipe = graph.recipe()
  used = recipe.have.band_names
  told = {}
  if graph.task is not None:
    told[heads.PREDICTION] = {
      'kind': graph.task.kind,
      'is': heads.WORDS[graph.task.kind],
      'classes': list(graph.classes),
    }
  return told | {
    'format': FORMAT,
    'inputs': ports(graph.inputs),
    'outputs': ports(outputs),
    'batch': {'symbol': graphs.BATCH, 'at_least': 1},
    'bands': list(graph.pixels.band_names),
    'bands_used': list(used),
    'invalid_pixels': (
      'a pixel whose used bands are not all finite'
      + _nodata(graph)
      + ' becomes zero after normalisation'
    ),
    'graph': graph.to_json(),
  }


def _nodata(graph: graphs.Graph) -> str:
  if graph.recipe().statistics is None:
    return ', or are all exactly zero,'
  if graph.pixels.nodata is None:
    return ''
  return f', or any of which is nodata ({graph.pixels.nodata:g}),'
