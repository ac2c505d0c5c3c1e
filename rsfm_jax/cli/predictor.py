"""What maps a scene: a fine-tuned model with its head, or an encoder."""

from collections.abc import Callable, Mapping, Sequence
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rsfm_jax.cli import models
from rsfm_jax.cli import tuned as tuned_lib
from rsfm_jax.core import choices
from rsfm_jax.export import heads
from rsfm_jax.models import build
from rsfm_jax.models import encoder
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import statistics as stats
from rsfm_jax.tasks import encoders
from rsfm_jax.tasks import spec as task_spec
from rsfm_jax.train import best
from rsfm_jax.train import checkpoint

Array = jax.Array
EMBEDDING = 'embedding'


class Predictor(NamedTuple):
  """A compiled step from windows to numbers that can be averaged.

  Attributes:
    call: f32[B, (2,) H, W, C] normalised -> f32[B, h, w, K]; of several
      sensors {sensor: f32[B, h, w, C]}.
    kind: of the task, or 'embedding'.
    sensors: contracts of what it sees, by name.
    statistics: that normalise them; complex SAR has none.
    factors: {sensor: pixels of the finest per pixel, on each axis}.
    stage: of an embedding, else ''.
    size: pixels of the finest sensor on a side of a window.
    cell: pixels of it on a side of one output.
    outputs: K.
    dates: 1, or 2 for changes.
    content_hash: of the parameters.
    classes: their names, where the run knows them.
  """

  call: Callable[[Any], Array]
  kind: str
  sensors: Mapping[str, contract.Sensor]
  statistics: Mapping[str, stats.Statistics]
  factors: Mapping[str, int]
  stage: str
  size: int
  cell: int
  outputs: int
  dates: int
  content_hash: str
  classes: Sequence[str] = ()


def tuned(path: str, *, size: int | None = None) -> Predictor:
  """The best state of a fine-tuning on targets of pixels.

  Args:
    path: workdir of `rsfm finetune`.
    size: of windows; None for that of training.

  Raises:
    ValueError: no head, or one whose targets are scenes.
  """
  known = tuned_lib.about(path, instead='ask for --as embedding')
  folder, task = pathlib.Path(path) / best.BEST, known.task
  if task.kind not in task_spec.MAPPED:
    raise ValueError(
      f'{path}: its head is for task.kind={task.kind}, not one map of a scene; '
      f'that needs one of {list(task_spec.MAPPED)}, or --as embedding.'
    )
  if known.data.get('sensors'):
    raise ValueError(
      f'{path} sees series or several sensors (config.data.sensors); a map is '
      'made of one image of one sensor.'
    )
  contracts = known.metadata['contract']
  ((name, held),) = contracts['sensors'].items()
  if size is None:
    size = known.data['window']['size']
  sensor = contract.Sensor.from_json(held)
  dates = 2 if task.kind == 'change' else 1
  params = checkpoint.load_params(folder).params
  encode = encoders.single(build.spec_from_json(known.metadata['spec']))

  def said(own: Any, head: Any, image: Array) -> Array:
    maps = encode(own, {name: {'image': image}}, mode='eval').maps
    return heads.prediction(task, head, maps, size)

  @functools.cache
  def prepared() -> tuple[Callable[..., Array], Any, Any]:
    """Not before a scene is found to be good: it takes a while."""
    extra = checkpoint.load_params(folder, which='extra').params
    return jax.jit(said), *heads.parts(heads.joined(params, extra or {}))

  def call(image: Array) -> Array:
    run, own, head = prepared()
    return run(own, head, image)

  return Predictor(
    call=call,
    kind=task.kind,
    sensors={name: sensor},
    statistics={
      n: stats.Statistics.from_json(v)
      for n, v in contracts['statistics'].items()
    },
    factors={name: 1},
    stage='',
    size=size,
    cell=1,
    # One score of change is two classes.
    outputs=max(task.outputs, dates),
    dates=dates,
    content_hash=checkpoint.content_hash(params),
    classes=known.classes,
  )


def embedding(
  path: str,
  *,
  sensor: str | None = None,
  stage: str = encoder.FINAL,
  size: int | None = None,
  which: str = 'auto',
) -> Predictor:
  """A map of a model's features.

  Args:
    path: of a run or a model folder.
    sensor: of the model; None where it has one.
    stage: see `encoder.stage_names`.
    size: of windows; None for what the model was made for.
    which: see `models.open_model`.

  Raises:
    ValueError: no such sensor or stage, or a size that is no whole tokens.
  """
  opened = models.open_model(path, which=which)
  known = list(opened.sensors)
  if sensor is None and len(known) > 1:
    raise ValueError(f'{path} has the sensors {known}; name one by --sensor.')
  name = choices.check(sensor or known[0], known, key='--sensor')
  spec = opened.model.spec
  choices.check(stage, encoder.stage_names(spec), key='--stage')
  if size is None:
    size = encoder.image_size(spec, name)
  encode = encoder.encoder(spec, name)
  run = jax.jit(lambda p, x: encode(p, x)[stage].astype(jnp.float32))
  bands = len(opened.sensors[name].bands)
  shape = jax.ShapeDtypeStruct((1, size, size, bands), jnp.float32)
  made = jax.eval_shape(run, opened.params, shape)
  cell = cell_of(size, made.shape[1], what=f'{stage} of {path}')
  return Predictor(
    call=lambda image: run(opened.params, image),
    kind=EMBEDDING,
    sensors={name: opened.sensors[name]},
    statistics=opened.statistics,
    factors={name: 1},
    stage=stage,
    size=size,
    cell=cell,
    outputs=made.shape[-1],
    dates=1,
    content_hash=opened.content_hash,
  )


def cell_of(size: int, tokens: int, *, what: str) -> int:
  """Pixels on a side of a token.

  Raises:
    ValueError: a window that is no whole tokens.
  """
  if size % tokens:
    raise ValueError(
      f'--size {size} is no whole tokens: {what} has {tokens} on a side.'
    )
  return size // tokens
