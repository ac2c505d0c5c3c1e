"""The head of a fine-tuned task behind an encoder that is used as it is.

What comes out is what a caller can use: probabilities, or numbers in the unit
of the targets. Tasks of one image are exported: scene classes and labels,
numbers, and maps of either; scenes are mapped by changes too.
"""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import numpy

from rsfm_jax.core import choices
from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.tasks import contract
from rsfm_jax.tasks import finetuning
from rsfm_jax.tasks import spec as task_spec

Array = jax.Array
PREDICTION = 'prediction'  # The output's name.
# What an output is, by the kind of its task.
WORDS = {
  'classes': 'the probability of each class, f32[b, K]',
  'labels': 'the probability of each label by itself, f32[b, K]',
  'scalar': 'the number, f32[b, 1]',
  'segmentation': 'the probability of each class by pixel, f32[b, H, W, K]',
  'map': 'the number of each pixel, f32[b, H, W, 1]',
}
_KEYS = (build.HEADS, finetuning.STATISTICS)


def check(task: task_spec.TaskSpec) -> None:
  """Refuses a task of several images, and boxes.

  Raises:
    ValueError: names the kinds that can be exported.
  """
  choices.check(task.kind, WORDS, key='task.kind of an exported head')


def joined(params: Any, extra: Mapping[str, Any]) -> Any:
  """Parameters of encoder and head, with statistics of batch norms if any."""
  seen = extra.get(finetuning.STATISTICS)
  return dict(params) | ({finetuning.STATISTICS: seen} if seen else {})


def parts(params: Any) -> tuple[Any, Any]:
  """(encoder's, head's) of `joined`."""
  return (
    {name: x for name, x in params.items() if name not in _KEYS},
    {name: x for name, x in params.items() if name in _KEYS},
  )


def save(path: pathlib.Path, params: Any, graph: Any) -> None:
  """Writes the head's part of `joined`, with its task and classes.

  Args:
    path: a safetensors file, in a folder that is not yet in its place.
    params: see `joined`.
    graph: `graph.Graph` that has the head.
  """
  flat = trees.flatten(parts(params)[1])
  told = {
    'task': dataclasses.asdict(graph.task),
    'classes': graph.classes,
    'outputs': WORDS[graph.task.kind],
  }
  numpy.save_file(
    {name: np.asarray(x, order='C') for name, x in flat.items()},
    path,
    metadata={name: json.dumps(value) for name, value in told.items()},
  )


def load(path: pathlib.Path) -> Any:
  return trees.unflatten(numpy.load_file(path))


def prediction(
  task: task_spec.TaskSpec, params: Any, maps: Mapping[str, Array], size: int
) -> Array:
  """What the head says; see `WORDS`.

  Args:
    task: see `check`, or one of changes.
    params: of the head.
    maps: of the encoder, by stage: [B, h, w, D], or [B, 2, h, w, D] of two
      dates.
    size: pixels on a side of the image.
  """
  features = contract.Features(maps, (size, size))
  tuned = finetuning.FineTuning(
    finetuning.FineTuningSpec(task=task),
    lambda *_, **__: features,
    features,
  )
  extra = {n: params[n] for n in (finetuning.STATISTICS,) if n in params}
  scores, _ = tuned.outputs(params, extra, {}, mode='eval')
  if task.kind in task_spec.DENSE:
    return tuned.task.averaged(scores, size=features.size)
  scores = scores.astype(jnp.float32)
  if task.kind == 'classes':
    return jax.nn.softmax(scores, axis=-1)
  return jax.nn.sigmoid(scores) if task.kind == 'labels' else scores
