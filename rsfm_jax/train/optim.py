"""AdamW or Adafactor with warm-up, cosine, clipping; the optax importer.

The optimiser state is a plain nested dict whose names end in the parameters'
names, so that path rules, checkpoints and pruning treat it like parameters:
`{'count', 'mu', 'nu'}` of AdamW, `{'count', 'row', 'column', 'nu'}` of
Adafactor (one of them holds a parameter's second moments, the others a 0).
"""

from collections.abc import Callable, Sequence
import dataclasses
import re
from typing import Literal, NamedTuple, get_args
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rsfm_jax.core import choices
from rsfm_jax.core import schedules
from rsfm_jax.core import trees

Kind = Literal['adamw', 'adafactor']
Cosine = Literal['after_warmup', 'from_zero']
Shape = schedules.Shape
Stored = Literal['float32', 'bfloat16']
Schedule = Callable[[jax.Array | int], jax.Array]

# What `weights='bfloat16'` stores in two bytes: nearly all bytes of a model.
_MATRICES = re.compile(r'.*/(kernel|w_in|w_out)')


@dataclasses.dataclass(frozen=True)
class OptimSpec:
  """AdamW and its schedule, defined at the global batch.

  The defaults of RingMoE's release are b1, b2, eps, weight_decay and clip_norm
  below; it also sets `bias_correction=False` and `cosine='from_zero'`.

  Attributes:
    kind: 'adamw' keeps two moments of every parameter; 'adafactor' keeps the
      second moments of a matrix as a row and a column and no first moments
      (Shazeer and Stern, "Adafactor", with decay 1 - t^-0.8 and updates
      clipped at RMS 1): 14.7 B parameters then need 59 GB beside the
      gradients, not 177.
    learning_rate: the peak.
    total_steps: where the schedule ends.
    decay_rules: `(path regex, bool)`: True decays; must cover every parameter.
      Stacked layers make biases 2-D, so a rule by rank would be wrong.
    shape: what the rate does after the warm-up: 'cosine', 'linear' and 'poly'
      fall to `min_learning_rate`, 'multistep' and 'exponential' are multiplied
      by `gamma`, 'constant' stays; see `schedules.falling`.
    power: of 'poly'.
    gamma: factor at every milestone of 'multistep', or of 'exponential' over
      `gamma_steps` steps.
    milestones: shares of the steps after the warm-up, of 'multistep'.
    gamma_steps: of 'exponential', usually an epoch.
    held: path regex of parameters that stand still for `held_steps`; their
      moments grow meanwhile.
    held_steps: see there.
    min_learning_rate: what the schedule ends at.
    warmup_learning_rate: what the linear warm-up starts at.
    warmup_steps: 0 for none.
    b1, b2, eps: of Adam.
    weight_decay: decoupled, scaled by the learning rate.
    final_weight_decay: where a cosine over all steps takes it (DINO; SkySense
      V2: 0.04 to 0.2); None keeps it.
    clip_norm: global norm above which gradients are scaled down; None: never.
    bias_correction: divide the moments by `1 - b**t`.
    cosine: `after_warmup` runs over the steps that follow the warm-up;
      `from_zero` counts from step 0, so the rate jumps after the warm-up.
    reference_batch: if set, all three rates are multiplied by
      `global_batch / reference_batch`.
    weights: how matrices are stored between steps. 'bfloat16' halves them and
      their gradients for machines with little memory; updates are then
      rounded up or down at random, so that small ones count on average.
  """

  learning_rate: float
  total_steps: int
  decay_rules: Sequence[tuple[str, bool]]
  min_learning_rate: float = 0.0
  warmup_learning_rate: float = 0.0
  warmup_steps: int = 0
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.05
  final_weight_decay: float | None = None
  clip_norm: float | None = 5.0
  bias_correction: bool = True
  cosine: Cosine = 'after_warmup'
  reference_batch: int | None = None
  kind: Kind = 'adamw'
  weights: Stored = 'float32'
  shape: Shape = 'cosine'
  power: float = 1.0
  gamma: float = 0.1
  milestones: Sequence[float] = ()
  gamma_steps: int = 1
  held: str = ''
  held_steps: int = 0

  def __post_init__(self):
    choices.check(self.shape, get_args(Shape), key='optim.shape')
    if not all(0 < share < 1 for share in self.milestones):
      raise ValueError(
        f'optim.milestones={tuple(self.milestones)} must be shares of the '
        'steps, each between 0 and 1.'
      )
    choices.check(self.kind, get_args(Kind), key='optim.kind')
    choices.check(self.weights, get_args(Stored), key='optim.weights')
    choices.check(self.cosine, get_args(Cosine), key='optim.cosine')
    if not 0 <= self.warmup_steps < self.total_steps:
      raise ValueError(
        f'optim.warmup_steps={self.warmup_steps} must be at least 0 and less '
        f'than optim.total_steps={self.total_steps}.'
      )
    if self.clip_norm is not None and self.clip_norm <= 0:
      raise ValueError(
        f'optim.clip_norm={self.clip_norm} must be positive, or None for no '
        'clipping.'
      )


class Optimizer(NamedTuple):
  """What a train step needs to know of an optimiser.

  Attributes:
    init: `params -> state`.
    update: `(grads, state, params, step) -> (params, state)`.
    learning_rate: `step -> f32[]`.
    decay: tree of bools, which parameters decay.
  """

  init: Callable[[trees.Tree], trees.Tree]
  update: Callable[..., tuple[trees.Tree, trees.Tree]]
  learning_rate: Schedule
  decay: trees.Tree


def schedule(spec: OptimSpec, *, global_batch: int | None = None) -> Schedule:
  """`step -> learning rate`, linear warm-up, then its shape; from step 0 on.

  Source: RingMoE's release, ringmoe_framework/lr/lr_schedule.py, with
  `cosine='from_zero'`.

  Raises:
    ValueError: `reference_batch` is set and `global_batch` is not given.
  """
  scale = 1.0
  if spec.reference_batch:
    if not global_batch:
      raise ValueError(
        f'optim.reference_batch={spec.reference_batch} needs global_batch.'
      )
    scale = global_batch / spec.reference_batch
  peak, low, first = (
    scale * rate
    for rate in (
      spec.learning_rate,
      spec.min_learning_rate,
      spec.warmup_learning_rate,
    )
  )
  begin = spec.warmup_steps if spec.cosine == 'after_warmup' else 0

  def learning_rate(step):
    step = jnp.asarray(step, jnp.float32)
    warm = first + (peak - first) * step / max(spec.warmup_steps, 1)
    after = schedules.falling(
      step - begin,
      shape=spec.shape,
      start=peak,
      end=low,
      steps=spec.total_steps - begin,
      power=spec.power,
      gamma=spec.gamma,
      milestones=spec.milestones,
      gamma_steps=spec.gamma_steps,
    )
    return jnp.where(step < spec.warmup_steps, warm, after)

  return learning_rate


def decay_schedule(spec: OptimSpec) -> Schedule:
  """`step -> weight decay`: constant, or a cosine from 0 to `total_steps`."""
  end = spec.final_weight_decay
  if end is None:
    return lambda step: spec.weight_decay
  return lambda step: schedules.cosine(
    step, start=spec.weight_decay, end=end, steps=spec.total_steps
  )


def global_norm(tree: trees.Tree) -> jax.Array:
  """The l2 norm over all leaves together, f32[]."""
  return optax.tree.norm(jax.tree.map(lambda x: x.astype(jnp.float32), tree))


def make(
  spec: OptimSpec,
  params: trees.Tree,
  *,
  global_batch: int | None = None,
  rates: trees.Tree | None = None,
) -> Optimizer:
  """The optimiser of these (abstract) parameters.

  Source: Loshchilov and Hutter, "Decoupled weight decay regularization", in
  the form `p -= lr * (m / (sqrt(v) + eps) + weight_decay * p)`.

  Args:
    spec: hyper-parameters.
    params: nested dict of arrays or abstract arrays; only names are read.
    global_batch: samples per step, all sensors and hosts; needed when
      `spec.reference_batch` is set.
    rates: what the learning rate of each parameter is multiplied by, a number
      or an array that broadcasts (layer-wise decay). A number 0 freezes: such a
      parameter does not decay either and has no moments.

  Raises:
    ValueError: a parameter without a decay rule, or a rule without parameter.
  """
  learning_rate = schedule(spec, global_batch=global_batch)
  decay = trees.match_rules(params, spec.decay_rules, what='optim.decay_rules')

  moments = _adamw(spec) if spec.kind == 'adamw' else _adafactor()
  if rates is None:
    rates = jax.tree.map(lambda _: 1.0, decay)
  frozen = jax.tree.map(lambda r: np.ndim(r) == 0 and r == 0, rates)

  weight_decay = decay_schedule(spec)

  def moving(tree):
    """Frozen parameters are left out of the moments: a 0 for each."""
    nothing = jnp.zeros(())
    return jax.tree.map(lambda x, still: nothing if still else x, tree, frozen)

  def init(params):
    return moments.init(moving(params))

  def update(grads, state, params, step):
    rate = learning_rate(step)
    strength = weight_decay(step)
    grads = _clip(moving(grads), spec.clip_norm)
    changes, new = moments.update(grads, state)

    def apply(name, p, change, decays, share, still):
      if still:
        return p
      if spec.held_steps and re.fullmatch(spec.held, name):
        share = jnp.where(step < spec.held_steps, 0.0, share)
      old = p.astype(jnp.float32)
      if decays:
        change = change + strength * old
      return _rounded(old - rate * share * change, p.dtype, name, step)

    return trees.map_named(apply, params, changes, decay, rates, frozen), new

  return Optimizer(init, update, learning_rate, decay)


def stored(params: trees.Tree, spec: OptimSpec) -> trees.Tree:
  """Parameters as the train state holds them; see `OptimSpec.weights`."""

  def cut(name, p):
    return p.astype(spec.weights) if _MATRICES.fullmatch(name) else p

  return trees.map_named(cut, params)


def _rounded(
  values: jax.Array, dtype: jnp.dtype, name: str, step: jax.Array
) -> jax.Array:
  """To the dtype; to bfloat16 up or down at random, by name and step.

  bfloat16 is the upper half of float32: noise below it is added, then cut off.
  """
  if dtype != jnp.bfloat16:
    return values.astype(dtype)
  key = jax.random.key(zlib.crc32(name.encode()), impl='rbg')
  key = jax.random.fold_in(key, step)
  noise = jax.random.bits(key, values.shape, jnp.uint16).astype(jnp.uint32)
  bits = jax.lax.bitcast_convert_type(values, jnp.uint32) + noise
  upper = bits & jnp.uint32(0xFFFF0000)
  cut = jax.lax.bitcast_convert_type(upper, jnp.float32)
  # Noise would turn an infinity into a NaN.
  return jnp.where(jnp.isfinite(values), cut, values).astype(dtype)


class _Moments(NamedTuple):
  """`init(params) -> state`; `update(grads, state) -> (changes, state)`."""

  init: Callable[[trees.Tree], trees.Tree]
  update: Callable[..., tuple[trees.Tree, trees.Tree]]


def _adamw(spec: OptimSpec) -> _Moments:
  """Changes are m / (sqrt(v) + eps)."""

  def init(params):
    zeros = lambda p: jnp.zeros_like(p, jnp.float32)
    return {
      'count': jnp.zeros((), jnp.int32),
      'mu': jax.tree.map(zeros, params),
      'nu': jax.tree.map(zeros, params),
    }

  def update(grads, state):
    grads = trees.cast(grads, jnp.float32)
    count = optax.safe_increment(state['count'])
    mu = optax.tree.update_moment(grads, state['mu'], spec.b1, 1)
    nu = optax.tree.update_moment(grads, state['nu'], spec.b2, 2)
    new = {'count': count, 'mu': mu, 'nu': nu}
    if spec.bias_correction:
      mu = optax.tree.bias_correction(mu, spec.b1, count)
      nu = optax.tree.bias_correction(nu, spec.b2, count)
    divide = lambda m, v: m / (jnp.sqrt(v) + spec.eps)
    return jax.tree.map(divide, mu, nu), new

  return _Moments(init, update)


def _adafactor() -> _Moments:
  """Changes are g / sqrt(v), v of rank one, clipped at RMS 1."""
  scale = optax.chain(
    optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)
  )

  def plain(state):
    factored = state[0]
    return {
      'count': factored.count,
      'row': factored.v_row,
      'column': factored.v_col,
      'nu': factored.v,
    }

  def init(params):
    return plain(scale.init(trees.cast(params, jnp.float32)))

  def update(grads, state):
    grads = trees.cast(grads, jnp.float32)
    names = ('count', 'row', 'column', 'nu')
    before = optax.FactoredState(*(state[name] for name in names))
    # The rule reads shapes of its third argument, never values.
    changes, after = scale.update(grads, (before, optax.EmptyState()), grads)
    return changes, plain(after)

  return _Moments(init, update)


def _clip(grads: trees.Tree, limit: float | None) -> trees.Tree:
  """Scales to global norm `limit` if above, with torch's 1e-6 in the ratio."""
  if limit is None:
    return grads
  ratio = jnp.minimum(1.0, limit / (global_norm(grads) + 1e-6))
  return jax.tree.map(lambda g: (g * ratio).astype(g.dtype), grads)
