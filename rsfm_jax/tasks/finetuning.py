"""Fine-tuning as an objective: an encoder, a head, and a target."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, Literal

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import rng
from rsfm_jax.models import build as models
from rsfm_jax.models import geo_context
from rsfm_jax.nn import batch_norm
from rsfm_jax.tasks import build
from rsfm_jax.tasks import contract
from rsfm_jax.tasks import mixing as mixing_lib
from rsfm_jax.tasks import spec as spec_lib

Array = jax.Array
Tree = Any
Batch = Mapping[str, Mapping[str, Array]]
Mode = batch_norm.Mode
# `(params, {sensor: entry}, *, mode, key, prototypes) -> Features`.
Encode = Callable[..., contract.Features]

PLACE = 'place'  # What a batch says of the ground, beside its sensors.
TARGET = 'target'
REGION = 'region'
# In the state's extra: of batch norms, and what is known of regions, frozen.
STATISTICS = 'statistics'
PROTOTYPES = 'prototypes'


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuningSpec:
  """What is trained besides `TaskSpec`.

  Attributes:
    task: the target and its head.
    mixing: what happens to images on device.
    encoder: 'trained', or 'frozen': it sees every image as in evaluation and
      gets no gradient.
  """

  task: spec_lib.TaskSpec
  mixing: mixing_lib.MixingSpec = mixing_lib.MixingSpec()
  encoder: Literal['trained', 'frozen'] = 'trained'

  def __post_init__(self):
    if self.mixing.mixup and self.task.kind in spec_lib.BOXES:
      raise ValueError(
        f'mixing.mixup={self.mixing.mixup}: images of task.kind='
        f'{self.task.kind} cannot be mixed; set 0.'
      )


@dataclasses.dataclass(frozen=True)
class FineTuning:
  """The objective; its heads stand beside the encoder's parameters.

  Batches: {sensor: {'image' [B, (2,) H, W, C] normalised, with zeros where it
  is not valid, ...}, 'place': {'target' [B, ...], 'valid' [B]}}; of series
  images are [B, T, H, W, C], and the place may have a 'region' i32[B]. No
  balance loss of experts is added (NOT FOUND in the papers, DEFAULT none).

  Attributes:
    spec: see there.
    encode: from a model's parameters and a batch to features.
    features: abstract, for the widths of the head.
    prototypes: f32[R, Np, dp] of the regions, abstract; None for none. A new
      state has zeros, of regions that are unknown.
  """

  spec: FineTuningSpec
  encode: Encode
  features: contract.Features
  prototypes: jax.ShapeDtypeStruct | None = None

  @property
  def task(self) -> contract.Task:
    return build.task(self.spec.task)

  def _make(self, key: Array) -> nnx.Module:
    seen = lambda maps: self.task.seen(self.features._replace(maps=maps)).maps
    maps = jax.eval_shape(seen, self.features.maps)
    features = self.features._replace(maps=maps)
    return build.head(self.spec.task, features, key=key)

  @functools.cached_property
  def _graph(self) -> nnx.GraphDef:
    abstract = nnx.eval_shape(lambda: self._make(jax.random.key(0)))
    return nnx.split(abstract, nnx.Param, nnx.BatchStat)[0]

  def init(self, key: Array) -> tuple[Tree, Tree]:
    """Parameters of the head; statistics of batch norms, and prototypes."""
    _, params, seen = nnx.split(self._make(key), nnx.Param, nnx.BatchStat)
    statistics = nnx.to_pure_dict(seen)
    extra = {STATISTICS: statistics} if statistics else {}
    if self.prototypes is not None:
      extra[PROTOTYPES] = jnp.zeros(self.prototypes.shape, jnp.float32)
    return nnx.to_pure_dict(params), extra

  def outputs(
    self,
    params: Tree,
    extra: Tree,
    batch: Batch,
    *,
    mode: Mode,
    key: Array | None = None,
    target: Array | None = None,
  ) -> tuple[Any, Tree]:
    """Scores of the head, and statistics as they are after it.

    In training the head of boxes is given the `target`.
    """
    encoder = {k: v for k, v in params.items() if k != models.HEADS}
    frozen = self.spec.encoder == 'frozen'
    context = None
    if PROTOTYPES in extra:
      region = batch[PLACE][REGION]
      context = geo_context.lookup(extra[PROTOTYPES], region)
    features = self.encode(
      encoder,
      sensors_of(batch),
      mode='eval' if frozen else mode,
      key=None if key is None else rng.named(key, 'encoder'),
      prototypes=context,
    )
    if frozen:
      features = features._replace(
        maps=jax.lax.stop_gradient(dict(features.maps))
      )
    head = nnx.merge(
      self._graph, params[models.HEADS], extra.get(STATISTICS, {})
    )
    given = {'target': target} if self.spec.task.kind in spec_lib.BOXES else {}
    scores = head(
      self.task.seen(features),
      mode=mode,
      key=None if key is None else rng.named(key, 'head'),
      **given,
    )
    return scores, nnx.to_pure_dict(nnx.state(head, nnx.BatchStat))

  def loss(
    self, params: Tree, extra: Tree, batch: Batch, key: Array
  ) -> tuple[Array, dict[str, Any]]:
    """(scalar, {'train': named metrics, '_statistics': of batch norms})."""
    spec, target = self.spec.mixing, batch[PLACE][TARGET]
    images = {s: e['image'] for s, e in sensors_of(batch).items()}
    for sensor, image in images.items():
      if spec.erasing:
        draw = rng.named(key, 'erasing', sensor)
        images[sensor] = mixing_lib.erase(image, spec, key=draw)
    share = jnp.ones(())
    if spec.mixup:
      draw = rng.named(key, 'mixup')  # The same share for every sensor.
      mixed = {s: mixing_lib.mix(x, spec, key=draw) for s, x in images.items()}
      images = {s: found.image for s, found in mixed.items()}
      share = next(iter(mixed.values())).share
    seen = {s: {**batch[s], 'image': x} for s, x in images.items()}
    scores, statistics = self.outputs(
      params, extra, {**batch, **seen}, mode='train', key=key, target=target
    )
    value, metrics = self.task.loss(scores, target)
    if spec.mixup:
      other, _ = self.task.loss(scores, mixing_lib.partners(target))
      value = share * value + (1 - share) * other
    aux = {'train': metrics}
    if statistics:
      aux[f'_{STATISTICS}'] = statistics
    return value, aux

  def after_update(
    self, params: Tree, extra: Tree, aux: Tree, step: Array
  ) -> Tree:
    del params, step
    if f'_{STATISTICS}' not in aux:
      return extra
    return extra | {STATISTICS: aux[f'_{STATISTICS}']}

  def predict(self, params: Tree, extra: Tree, batch: Batch) -> Array:
    """Predictions of the task for a batch as in evaluation."""
    scores, _ = self.outputs(params, extra, batch, mode='eval')
    return self.task.predict(scores, size=self.features.size)

  def averaged(self, params: Tree, extra: Tree, batch: Batch) -> Array:
    """Of a dense task, what overlapping windows are averaged by."""
    scores, _ = self.outputs(params, extra, batch, mode='eval')
    return self.task.averaged(scores, size=self.features.size)

  def warnings(self, metrics: Mapping[str, Any]) -> dict[str, str]:
    del metrics
    return {}


def sensors_of(batch: Batch) -> dict[str, contract.Entry]:
  """{sensor: entry} of a batch, without what it says of the place."""
  return {name: entry for name, entry in batch.items() if name != PLACE}
