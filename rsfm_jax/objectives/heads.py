"""Heads of SkySense V2's pre-training and the constants of its losses.

Their number and sizes are NOT FOUND in the paper (arXiv 2507.13812). DEFAULT:
one head for images and one for pixels and objects per sensor and for the fused
features, DINOv2's sizes, one head shared by all queries.
"""

import dataclasses
import functools

from flax import nnx
import jax

from rsfm_jax.core import choices
from rsfm_jax.core import rng
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.nn import linear
from rsfm_jax.objectives import dino
from rsfm_jax.objectives import geo_prototypes
from rsfm_jax.objectives import granularity
from rsfm_jax.objectives import semantic

Array = jax.Array

FUSED = 'fused'


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSpec:
  """Weights and constants; a weight of 0 switches its loss off.

  Attributes:
    total_steps: of the run; percentages are of it.
    mgcl_weight, qsacl_weight, ita_weight, aux_weight: 1, 1, 1, 0.01 (Eq. 5).
    levels: of MGCL.
    clusters: N_C of the object level (NOT FOUND, DEFAULT 8).
    queries: m of QSACL (paper: 16).
    query_heads: attention heads of their decoder layer.
    hidden, bottleneck, outputs: of the DINO heads.
    targets: 'sinkhorn' or 'centring'.
    student_temperature: NOT FOUND, DEFAULT 0.1.
    teacher_temperature, final_teacher_temperature: DEFAULT 0.04 and 0.07.
    teacher_warmup_percent: of the steps, for the temperature (DEFAULT 6).
    frozen_percent: of the steps, in which last layers stay (DEFAULT 1).
    ita_temperature: NOT FOUND, DEFAULT 0.07.
    regions: of the geo-context prototypes; 0 for none (paper: 4096).
    prototypes: of each region (paper: 100).
    prototype_momentum: NOT FOUND, DEFAULT 0.999.
  """

  total_steps: int
  mgcl_weight: float = 1.0
  qsacl_weight: float = 1.0
  ita_weight: float = 1.0
  aux_weight: float = 0.01
  levels: tuple[str, ...] = granularity.LEVELS
  clusters: int = 8
  queries: int = 16
  query_heads: int = 16
  hidden: int = 2048
  bottleneck: int = 256
  outputs: int = 65536
  targets: dino.Kind = 'sinkhorn'
  student_temperature: float = 0.1
  teacher_temperature: float = 0.04
  final_teacher_temperature: float = 0.07
  teacher_warmup_percent: float = 6.0
  frozen_percent: float = 1.0
  ita_temperature: float = 0.07
  regions: int = 4096
  prototypes: int = 100
  prototype_momentum: float = geo_prototypes.MOMENTUM

  def __post_init__(self):
    object.__setattr__(self, 'levels', tuple(self.levels))
    for level in self.levels:
      choices.check(level, granularity.LEVELS, key='objective.levels')
    for name in ('mgcl', 'qsacl', 'ita', 'aux'):
      if getattr(self, f'{name}_weight') < 0:
        raise ValueError(
          f'objective.{name}_weight={getattr(self, f"{name}_weight")} must not '
          'be negative.'
        )

  @property
  def target_spec(self) -> dino.TargetSpec:
    return dino.TargetSpec(
      kind=self.targets, student_temperature=self.student_temperature
    )

  def steps(self, percent: float) -> int:
    return round(self.total_steps * percent / 100)


class Heads(nnx.Module):
  """What only pre-training needs; its moving average belongs to the teacher."""

  def __init__(
    self,
    spec: LossSpec,
    model: skysense_v2_spec.SkySenseV2Spec,
    table_dim: int | None,
    *,
    key: Array,
  ):
    last = model.embed_dim * 2 ** (len(model.depths) - 1)
    widths = dict.fromkeys(model.sensors, last)
    if model.fusion_depth:
      widths[FUSED] = model.fusion_dim
    head = lambda name, dim: dino.Head(
      dino.HeadSpec(
        dim_in=dim,
        hidden=spec.hidden,
        bottleneck=spec.bottleneck,
        outputs=spec.outputs,
      ),
      key=rng.named(key, name),
      # Narrow heads of std 0.02 start with vectors whose length is nearly 0,
      # and gradients of 1 / length, which clipping then takes for all others.
      std=model.init_std,
    )
    mgcl = widths if spec.mgcl_weight else {}
    self.dense = nnx.Dict({s: head(f'dense/{s}', d) for s, d in mgcl.items()})
    self.image = nnx.Dict({s: head(f'image/{s}', d) for s, d in mgcl.items()})
    if spec.qsacl_weight:
      self.queries = semantic.Queries(
        spec.queries,
        model.fusion_dim,
        spec.query_heads,
        key=rng.named(key, 'queries'),
        std=model.init_std,
      )
      self.query_head = head('query_head', model.fusion_dim)
    if spec.ita_weight:
      self.language = linear.Dense(
        last, table_dim, key=rng.named(key, 'language'), std=model.init_std
      )


class StillHeads:
  """Heads with last layers held still while the factor is 0.

  DINO heads give the factors of their logits, which may be too many.
  """

  def __init__(self, heads: Heads, factor: Array):
    self._heads, self._factor = heads, factor
    self.sources = tuple(heads.dense)

  def dense(self, source: str) -> semantic.Head:
    return self._still(self._heads.dense[source])

  def image(self, source: str) -> semantic.Head:
    return self._still(self._heads.image[source])

  def queries(self, tokens: Array) -> Array:
    return self._heads.queries(tokens)

  def query(self, x: Array) -> dino.Vectors:
    return self._still(self._heads.query_head)(x)

  def language(self, x: Array) -> Array:
    return self._heads.language(x)

  def _still(self, head: dino.Head) -> semantic.Head:
    return functools.partial(head.vectors, last_layer=self._factor)
