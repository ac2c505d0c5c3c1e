"""Runs in the isolated environment: a graph to ONNX, and what it then says.

`python -m rsfm_jax.export.onnx_worker FOLDER` reads what `export.onnx` wrote
there. It imports nothing that needs Orbax, and neither the converter nor the
runtime before the program is traced: the converter replaces functions of
`jax.numpy` when it is imported.
"""

import functools
import importlib
import pathlib
import sys
from typing import Any

import jax
from jax import export
from jax.interpreters import partial_eval
import numpy as np
import safetensors.numpy

from rsfm_jax.core import files
from rsfm_jax.core import trees
from rsfm_jax.export import graph as graphs
from rsfm_jax.export import onnx

# Every expert on every token, then a weighted sum: products and no loops.
# Sorted rows need sizes that depend on the batch where the converter wants
# numbers.
ENGINE = 'oracle'


def traced(graph: graphs.Graph, params: Any) -> tuple[Any, Any, tuple]:
  """(program without dead code, its constants, abstract inputs)."""
  (batch,) = export.symbolic_shape(graphs.BATCH)
  arguments = graph.arguments(batch)
  run = functools.partial(graph, params, engine=ENGINE)
  closed = jax.make_jaxpr(run)(*arguments)
  every = [True] * len(closed.jaxpr.outvars)
  # Statistics of the routing and decoders, which nobody asked for.
  program, _ = partial_eval.dce_jaxpr(closed.jaxpr, every, instantiate=True)
  return program, closed.consts, arguments


def convert(graph: graphs.Graph, params: Any) -> bytes:
  """The ONNX file's bytes; inputs and outputs by the graph's names."""
  program, constants, arguments = traced(graph, params)
  # A dict's leaves come in the order of its keys.
  outputs = sorted(graph.outputs(params))
  converter = importlib.import_module('jax2onnx')
  model = converter.to_onnx(
    lambda *x: jax.core.eval_jaxpr(program, constants, *x),
    inputs=list(arguments),
    model_name=f'rsfm_jax_{graph.sensor.name}',
    opset=onnx.OPSET,
    input_names=list(graph.inputs),
    output_names=outputs,
  )
  return model.SerializeToString()


def answers(model: files.Path, inputs: list[pathlib.Path]) -> list[dict]:
  """Outputs by name for each file of inputs, by the runtime on CPU."""
  runtime = importlib.import_module('onnxruntime')
  session = runtime.InferenceSession(
    str(model), providers=['CPUExecutionProvider']
  )
  names = [out.name for out in session.get_outputs()]
  found = []
  for path in inputs:
    with np.load(path) as arrays:
      values = session.run(None, dict(arrays))
    found.append(dict(zip(names, values, strict=True)))
  return found


def main(folder: pathlib.Path) -> None:
  """Reads graph.json, weights and inputs; writes model.onnx and outputs."""
  graph = graphs.Graph.from_json(files.read_json(folder / 'graph.json'))
  flat = safetensors.numpy.load_file(folder / 'weights.safetensors')
  params = jax.tree.map(jax.numpy.asarray, trees.unflatten(flat))
  (folder / 'model.onnx').write_bytes(convert(graph, params))
  inputs = sorted(folder.glob('inputs_*.npz'))
  found = answers(folder / 'model.onnx', inputs)
  for path, arrays in zip(inputs, found, strict=True):
    np.savez(path.with_name(path.name.replace('inputs', 'outputs')), **arrays)


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
