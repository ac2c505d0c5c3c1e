"""A graph as StableHLO: one artefact for CPU, CUDA and TPU, any batch.

`jax.export` lowers the program for all platforms at once and keeps the weights
as constants. Experts are computed as in evaluation: rows sorted by expert,
without capacity, in loops over blocks on CPU and as grouped products elsewhere;
the choice (`moe.grouped`) stands in the artefact and is made where it runs.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
from jax import export

from rsfm_jax.export import graph as graphs

PLATFORMS = ('cpu', 'cuda', 'tpu')
# What runs an artefact; JAX reads and writes them by `flatbuffers`.
RUNTIME = (f'jax=={jax.__version__}', 'flatbuffers')


def serialised(
  graph: graphs.Graph, params: Any, *, platforms: Sequence[str] = PLATFORMS
) -> bytes:
  """The artefact's bytes.

  Its call takes the inputs of the graph, any batch from 1 on, and returns the
  same dict. An empty batch is a ValueError of JAX: a symbolic size is >= 1.

  Raises:
    ValueError: weights of more than 2 GiB, or no `flatbuffers`.
  """
  graphs.check_size(params)
  (batch,) = export.symbolic_shape(graphs.BATCH)
  run = jax.jit(functools.partial(graph, params))
  exported = export.export(run, platforms=tuple(platforms))(
    *graph.arguments(batch)
  )
  try:
    return bytes(exported.serialize())
  except ModuleNotFoundError as error:
    raise ValueError(
      f'StableHLO is written by {error.name}, which is not installed: '
      "pip install 'rsfm-jax[export]'."
    ) from error


def load(data: bytes) -> Callable[..., dict[str, jax.Array]]:
  """The compiled call of an artefact; as `load_stablehlo.py` does it."""
  return jax.jit(export.deserialize(bytearray(data)).call)
