"""SkySense V2's pre-training: one teacher, one student, four losses.

L = MGCL + QSACL + ITA + 0.01 x balance of the experts (arXiv 2507.13812, Eq. 5
and section 4.1). The teacher is the moving average of everything that learns,
heads and queries too; it sees global and local views, since QSACL compares
both. Geo-context prototypes enter the student's fused features alone (appendix
on GCPL). What the paper leaves open takes the DEFAULT of its fact sheet.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.core import rng
from rsfm_jax.models import clean as clean_lib
from rsfm_jax.models import geo_context
from rsfm_jax.models import skysense_v2
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.moe import balance as moe_balance
from rsfm_jax.moe import layer as moe_layer
from rsfm_jax.objectives import collapse
from rsfm_jax.objectives import dino
from rsfm_jax.objectives import geo_prototypes
from rsfm_jax.objectives import granularity
from rsfm_jax.objectives import heads as heads_lib
from rsfm_jax.objectives import language
from rsfm_jax.objectives import multi_crop
from rsfm_jax.objectives import photometric as photometric_lib
from rsfm_jax.objectives import routed as routed_lib
from rsfm_jax.objectives import semantic
from rsfm_jax.objectives import views as views_lib

Array = jax.Array
Tree = Any
Batch = Mapping[str, Mapping[str, Array]]

PLACE = 'place'
OBJECTIVE = 'objective'  # The heads' place among the parameters.


class _Seen(NamedTuple):
  """What one network makes of the views of one size.

  Attributes:
    windows: where the views lie.
    features: {sensor: [B, V, T, g, g, D]}.
    fused: [B, V, 1, g, g, d], or None.
    aux: of the experts.
    queries: [B, V, g, g, dp], what the fused ones asked the prototypes.
  """

  windows: views_lib.Windows
  features: dict[str, Array]
  fused: Array | None
  aux: Any
  queries: Array | None

  def maps(self, source: str) -> Array:
    return self.fused if source == heads_lib.FUSED else self.features[source]


class SkySenseV2Pretraining:
  """The objective: `init`, `loss` and `after_update` of a train step.

  Batches: {sensor: {'image' [B, T, H, W, C] normalised, 'band_valid' [B, C],
  'pixel_valid' [B, T, H, W], 'date_valid' [B, T], 'day' i32[B, T], 'valid'
  [B]}, 'place': {'region' i32[B], 'landcover' u8[B, h, w], 'valid' [B]}}; all
  sensors of a sample cover the same ground.
  """

  def __init__(
    self,
    spec: heads_lib.LossSpec,
    *,
    model: skysense_v2_spec.SkySenseV2Spec,
    encode: Callable[..., skysense_v2.Output],
    views: views_lib.ViewSpec,
    photometric: photometric_lib.PhotometricSpec | None = None,
    colours: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    table: np.ndarray | None = None,
  ):
    """Checks that the parts fit; allocates nothing.

    Args:
      spec: weights and constants.
      model: of the encoder.
      encode: its `apply`.
      views: multi-crop.
      photometric: of the sensors in `colours`; None for no change of light.
      colours: {sensor: (mean, deviation)} that normalised intensities in
        [0, 1] of three colours.
      table: f32[K, E] of class vectors, for ITA.

    Raises:
      ValueError: a loss whose parts are missing, by config key.
    """
    if spec.qsacl_weight and not model.fusion_depth:
      raise ValueError(
        f'objective.qsacl_weight={spec.qsacl_weight}: the queries read fused '
        'features, but model.fusion_depth=0.'
      )
    if spec.ita_weight and table is None:
      raise ValueError(
        f'objective.ita_weight={spec.ita_weight} needs a class table '
        '(objective.class_table); `rsfm data text-embeddings` makes one.'
      )
    self.spec = spec
    self.looks = multi_crop.Looks(views, photometric, dict(colours or {}))
    self._model, self._encode = model, encode
    self._table = None if table is None else np.asarray(table, np.float32)
    make = functools.partial(
      heads_lib.Heads,
      spec,
      model,
      None if table is None else self._table.shape[1],
    )
    self._heads = nnx.split(
      nnx.eval_shape(lambda: make(key=jax.random.key(0)))
    )[0]
    self._make_heads = make

  @property
  def has_prototypes(self) -> bool:
    model = self._model
    return bool(
      self.spec.regions and model.prototypes_dim and model.fusion_depth
    )

  def init(self, key: Array) -> tuple[Tree, Tree]:
    """Parameters of the heads, and what is checkpointed but not optimised."""
    heads = self._make_heads(key=rng.named(key, 'heads'))
    extra = {}
    if self.has_prototypes:
      extra['prototypes'] = geo_prototypes.init(
        rng.named(key, 'prototypes'),
        regions=self.spec.regions,
        prototypes=self.spec.prototypes,
        dim=self._model.prototypes_dim,
      )
    if self.spec.targets == 'centring':
      zeros = functools.partial(jnp.zeros, self.spec.outputs, jnp.float32)
      extra['centres'] = {
        source: {level: zeros() for level in self.spec.levels}
        for source in heads.dense
      }
      if self.spec.qsacl_weight:
        extra['centres']['queries'] = {'query': zeros()}
    return nnx.to_pure_dict(nnx.split(heads)[1]), extra

  def loss(
    self, params: Tree, seen: Tree, batch: Batch, key: Array
  ) -> tuple[Array, dict[str, Any]]:
    """(scalar, {'losses', 'monitor', 'routing', and what the update needs}).

    `seen` holds `ema`, the teacher; `step`; and the extra state.
    """
    spec = self.spec
    sensors = self._present(batch)
    place = batch[PLACE]
    with jax.named_scope('views'):
      views = multi_crop.views(batch, sensors, self.looks, key)
    student, teacher = [], []
    for name, (windows, images) in views.items():
      context = self._context(seen, place, windows)
      run = functools.partial(self._run, windows, images, batch, sensors)
      noise = rng.named(key, 'student', name)
      with jax.named_scope('student'):
        student.append(run(params, mode='train', key=noise, context=context))
      with jax.named_scope('teacher'):
        taught = run(seen['ema'], mode='eval', key=None, context=None)
      teacher.append(jax.lax.stop_gradient(taught))
    heads = self._merged(params[OBJECTIVE], seen['step'])
    taught_heads = self._merged(seen['ema'][OBJECTIVE], seen['step'])
    found = _Found({}, {}, {})
    if spec.mgcl_weight:
      with jax.named_scope('mgcl'):
        self._mgcl(found, student, teacher, heads, taught_heads, batch, seen)
    if spec.qsacl_weight:
      with jax.named_scope('qsacl'):
        self._qsacl(found, student, teacher, heads, taught_heads, place, seen)
    if spec.ita_weight:
      with jax.named_scope('ita'):
        found.losses['ita'] = self._ita(student[0], heads, batch, sensors)
    losses = found.losses
    routing = {}
    if student[0].aux is not None:
      losses['balance'], routing = _routed([s.aux for s in student])
    total = sum(
      getattr(spec, f'{name}_weight') * losses[part]
      for name, part in (
        ('mgcl', 'mgcl'),
        ('qsacl', 'qsacl'),
        ('ita', 'ita'),
        ('aux', 'balance'),
      )
      if part in losses
    )
    aux = {
      'losses': losses,
      'monitor': found.watch,
      'routing': routing,
    }
    if found.centres:
      aux['_centres'] = found.centres
    if self.has_prototypes:
      asked = student[0].queries
      aux['_prototypes'] = geo_prototypes.statistics(
        seen['prototypes'],
        asked.reshape(len(asked), -1, asked.shape[-1]),
        place['region'],
        place['valid'],
      )
    return total, aux

  def after_update(
    self, params: Tree, extra: Tree, aux: Mapping[str, Any], step: Array
  ) -> Tree:
    """Moves prototypes and centres by what the batch has shown."""
    del params, step
    new = dict(extra)
    if '_prototypes' in aux:
      new['prototypes'] = geo_prototypes.update(
        extra['prototypes'],
        aux['_prototypes'],
        momentum=self.spec.prototype_momentum,
      )
    if '_centres' in aux:
      new['centres'] = aux['_centres']
    return new

  def warnings(self, metrics: Mapping[str, Any]) -> dict[str, str]:
    """{kind of feature: a sentence} of those that look collapsed.

    Args:
      metrics: a row of the run, by name, as `loss` reports them.
    """
    watched: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
      part, _, rest = name.partition('/')
      if part == 'monitor':
        source, _, what = rest.rpartition('/')
        watched.setdefault(source, {})[what] = value
    found = {
      source: collapse.warning(values, self.spec.outputs)
      for source, values in watched.items()
    }
    return {source: said for source, said in found.items() if said}

  def _present(self, batch: Batch) -> list[str]:
    for name in batch:
      known = (*self._model.sensors, PLACE)
      choices.check(name, known, key='sensor of the batch')
    return [s for s in self._model.sensors if s in batch]

  def _context(self, seen: Tree, place: Mapping[str, Array], windows) -> Any:
    """The prototypes of every view's region, or None."""
    if not self.has_prototypes:
      return None
    found = geo_context.lookup(seen['prototypes'], place['region'])
    return jnp.repeat(found, windows.cell.shape[1], 0)

  def _run(
    self, windows, images, batch, sensors, params, *, mode, key, context
  ) -> _Seen:
    views = windows.cell.shape[1]
    spread = lambda x: jnp.repeat(x, views, 0)
    out = self._encode(
      {k: v for k, v in params.items() if k != OBJECTIVE},
      images,
      date_valid={s: spread(clean_lib.dates(batch[s])) for s in sensors},
      days={s: spread(batch[s]['day']) for s in sensors},
      mode=mode,
      key=key,
      prototypes=context,
      fuse=bool(self._model.fusion_depth),
    )
    cut = lambda x: x.reshape(-1, views, *x.shape[1:])
    fused = None if out.fused is None else cut(out.fused)[:, :, None]
    return _Seen(
      windows,
      {s: cut(x) for s, x in out.features.items()},
      fused,
      out.aux,
      None if out.queries is None else cut(out.queries),
    )

  def _merged(self, params: Tree, step: Array) -> Any:
    """The heads, their last layers held still at the beginning."""
    frozen = self.spec.steps(self.spec.frozen_percent)
    factor = dino.last_layer_factor(step, frozen)
    heads = nnx.merge(self._heads, params)
    return heads_lib.StillHeads(heads, factor)

  def _temperature(self, step: Array) -> Array:
    spec = self.spec
    return dino.teacher_temperature(
      step,
      warmup_steps=spec.steps(spec.teacher_warmup_percent),
      start=spec.teacher_temperature,
      end=spec.final_teacher_temperature,
    )

  def _pairs(self, student: list[_Seen]) -> list[list[tuple[int, int]]]:
    """(teacher's global view, student's view) for each size of view."""
    taught = range(self.looks.views.global_views)
    pairs = [[(t, s) for t in taught for s in taught if s != t]]
    if len(student) > 1:
      small = range(self.looks.views.local_views)
      pairs.append([(t, s) for t in taught for s in small])
    return pairs

  def _mgcl(
    self, found, student, teacher, heads, taught_heads, batch, seen
  ) -> None:
    """Fills in the losses of every sensor and of the fused features."""
    spec, pairs = self.spec, self._pairs(student)
    for source in heads.sources:
      if source != heads_lib.FUSED and source not in student[0].features:
        continue
      counts = batch[PLACE]['valid'][:, None]
      if source != heads_lib.FUSED:
        counts = clean_lib.dates(batch[source])
      groups = [
        views_lib.align(
          s.maps(source),
          teacher[0].maps(source),
          student_windows=s.windows,
          teacher_windows=teacher[0].windows,
          pairs=p,
        )
        for s, p in zip(student, pairs, strict=True)
      ]
      out = granularity.losses(
        [g.student for g in groups],
        [g.teacher for g in groups],
        [g.counts[:, :, None] & counts[:, None, :, None] for g in groups],
        pixel_heads=granularity.Heads(
          heads.dense(source), taught_heads.dense(source)
        ),
        image_heads=granularity.Heads(
          heads.image(source), taught_heads.image(source)
        ),
        teacher_temperature=self._temperature(seen['step']),
        targets=spec.target_spec,
        clusters=granularity.ClusterSpec(clusters=spec.clusters),
        levels=spec.levels,
        centres=seen.get('centres', {}).get(source),
      )
      for level in spec.levels:
        found.losses[f'{source}_{level}'] = getattr(out, level)
      if out.centres:
        found.centres[source] = out.centres
      found.watch[source] = out.watch
    found.losses['mgcl'] = sum(found.losses.values())

  def _qsacl(
    self, found, student, teacher, heads, taught_heads, place, seen
  ) -> None:
    if len(student) < 2:
      raise ValueError(
        'objective.views.local_views=0: QSACL compares global and local views; '
        'set objective.qsacl_weight=0 to do without.'
      )

    def aggregated(queries, of):
      tokens = (
        s.fused.reshape(len(s.fused), -1, s.fused.shape[-1]) for s in of
      )
      return semantic.Aggregated(*map(queries, tokens))

    out = semantic.loss(
      aggregated(heads.queries, student),
      jax.lax.stop_gradient(aggregated(taught_heads.queries, teacher)),
      weights=place['valid'],
      student_head=heads.query,
      teacher_head=taught_heads.query,
      teacher_temperature=self._temperature(seen['step']),
      targets=self.spec.target_spec,
      centre=seen.get('centres', {}).get('queries', {}).get('query'),
    )
    found.losses['qsacl'] = out.value
    if out.centre is not None:
      found.centres['queries'] = {'query': out.centre}
    found.watch['queries'] = out.watch

  def _ita(self, student: _Seen, heads, batch: Batch, sensors) -> Array:
    """Mean over the sensors that are there."""
    windows, views = student.windows, student.windows.cell.shape[1]
    labels = views_lib.cut(batch[PLACE]['landcover'][:, None], windows)[:, 0]
    losses = []
    for sensor in sensors:
      maps = student.features[sensor]
      flat = maps.reshape(-1, *maps.shape[2:])  # [B V, T, g, g, D]
      classes = _on_grid(labels, flat.shape[2])[:, None]
      classes = jnp.broadcast_to(classes, flat.shape[:-1])
      counts = jnp.repeat(clean_lib.dates(batch[sensor]), views, 0)
      losses.append(
        language.loss(
          flat,
          classes,
          jnp.asarray(self._table),
          project=heads.language,
          temperature=self.spec.ita_temperature,
          valid=jnp.broadcast_to(counts[:, :, None, None], classes.shape),
        )
      )
    return sum(losses) / len(losses)


class _Found(NamedTuple):
  """What the losses leave: scalars, next centres, numbers to watch."""

  losses: dict[str, Array]
  centres: dict[str, dict[str, Array]]
  watch: dict[str, dict[str, Array]]


def _routed(
  auxes: list[dict[str, moe_layer.Statistics]],
) -> tuple[Array, dict[str, Array]]:
  """Loss of the experts' balance over all sensors and views, and metrics.

  The sum over the layers, as Swin-MoE has it.
  """
  by_sensor = {
    sensor: jax.tree.map(lambda *a: sum(a), *(aux[sensor] for aux in auxes))
    for sensor in auxes[0]
  }
  loss = moe_balance.demand_loss(routed_lib.total(by_sensor).demand).sum()
  return loss, routed_lib.metrics(by_sensor)


def _on_grid(labels: Array, grid: int) -> Array:
  """u8[N, h, h] at the cells of a feature map, by majority or repetition."""
  side = labels.shape[1]
  if side >= grid:
    return language.majority(labels, side // grid)
  again = grid // side
  return jnp.repeat(jnp.repeat(labels, again, 1), again, 2)
