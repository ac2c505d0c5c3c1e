"""Window attention on TPU: the two calls of Pallas and their blocks.

Queries, keys and values stay [B, H, W, N * K] in the order of the image, as
dense layers write them. A grid step takes the heads of 128 lanes and a row of
windows, as `window_tiles` says; `window_body` is what it does with them.
Nothing but the inputs is kept for the backward pass.
"""

import functools
from typing import NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from rsfm_jax.nn import window_body
from rsfm_jax.nn import window_tiles

Array = jax.Array
Plan = window_tiles.Plan


class _Cycles(NamedTuple):
  """What a core spends on a window and group of heads.

  Fitted to the compiler's schedule of a grid step for v5p in bfloat16 (libtpu
  0.0.42.1, bundles of its LLO dump), from above:

  | tokens | shifted | forward | backward | products alone |
  |---|---|---|---|---|
  | 144 | yes | 570 | 1282 | 324, 810 |
  | 144 | no | 443 to 491 | 1118 to 1208 | 324, 810 |
  | 36 | no | 111 | 197 | 20, 51 |
  | 144, cosine | yes | 681 | 1644 | 324, 810 |

  Of v6e it is 496 and 931 (144 tokens, shifted): the fit is an upper bound.

  Attributes:
    register: for 8 x 128 logits.
    window: for the rest.
  """

  register: float
  window: float


_FORWARD = _Cycles(5.5, 80)
_BACKWARD = _Cycles(13.0, 110)
_COSINE = 1.3
# FLOPs of a core in a cycle, by its peak: four matrix units of 128 x 128, or
# units of 256 x 256, which tiles of 128 do not fill any better.
_FLOPS = 2**17
_WIDE_FLOPS = 2**19
_WIDE = ('TPU v6 lite', 'TPU7x')


class Inputs(NamedTuple):
  """Of both kernels, as arrays and, inside, as references.

  Attributes:
    q: [B, H, W, N * K].
    k: [B, H, W, N * K].
    v: [B, H, W, N * K].
    scale: f32[groups, 1, lanes], multiplies the queries.
    bias: by `window_tiles.arrange_bias`, times `window_body.LOG2_E`.
    mask: by `window_tiles.arrange_mask`, times `window_body.LOG2_E`; or None.
    kinds: i32[windows of an image], which mask a window takes; or None.
  """

  q: Array
  k: Array
  v: Array
  scale: Array
  bias: Array
  mask: Array | None = None
  kinds: Array | None = None


def forward(inputs: Inputs, plan: Plan, *, interpret: bool = False) -> Array:
  """softmax(q k' + bias + mask) v in every window: [B, H, W, N * K]."""
  return pl.pallas_call(
    functools.partial(window_body.forward, plan=plan, masked=_masked(inputs)),
    grid=_grid(plan),
    in_specs=_specs(inputs, plan, tokens=3),
    out_specs=_out_spec(plan),
    out_shape=jax.ShapeDtypeStruct(inputs.q.shape, inputs.q.dtype),
    scratch_shapes=_scratch(inputs, plan, count=4),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel', 'arbitrary')
    ),
    cost_estimate=_cost(inputs, plan, tokens=4, cycles=_FORWARD),
    interpret=interpret,
    name='window_attention_forward',
  )(*_arrays(inputs, plan))


def backward(
  inputs: Inputs, dy: Array, plan: Plan, *, interpret: bool = False
) -> window_body.Gradients:
  """Gradients by q, k, v, the arranged bias and the scale of `forward`.

  Those of bias and scale are sums over windows, which run innermost and add to
  a block that stays in VMEM. The gradient of bias is by the natural logits
  (`window_body.LOG2_E` left out).
  """
  kernel = functools.partial(
    window_body.backward, plan=plan, masked=_masked(inputs)
  )
  token = jax.ShapeDtypeStruct(inputs.q.shape, inputs.q.dtype)
  float32 = lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32)
  sums = [inputs.bias, inputs.scale]
  return window_body.Gradients(
    *pl.pallas_call(
      kernel,
      grid=_grid(plan),
      in_specs=_specs(inputs, plan, tokens=4),
      out_specs=[_out_spec(plan)] * 3 + [_group_spec(x) for x in sums],
      out_shape=[token] * 3 + [float32(x) for x in sums],
      scratch_shapes=_scratch(inputs, plan, count=7),
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=('parallel', 'arbitrary', 'arbitrary')
      ),
      cost_estimate=_cost(inputs, plan, tokens=7, cycles=_BACKWARD),
      interpret=interpret,
      name='window_attention_backward',
    )(*_arrays(inputs, plan, dy))
  )


def _grid(plan: Plan) -> tuple[int, int, int]:
  return plan.groups, plan.batch // plan.images, plan.down


def _masked(inputs: Inputs) -> bool:
  return inputs.mask is not None


def _arrays(inputs: Inputs, plan: Plan, *dy: Array) -> list[Array]:
  """In the order of `_specs`: an array of tokens comes once for each band."""
  tokens = [x for x in (*inputs[:3], *dy) for _ in range(plan.bands)]
  return tokens + [x for x in inputs[3:] if x is not None]


def _specs(inputs: Inputs, plan: Plan, *, tokens: int) -> list[pl.BlockSpec]:
  bands = [_band_spec(plan, band) for band in range(plan.bands)]
  found = bands * tokens + [_group_spec(inputs.scale), _group_spec(inputs.bias)]
  if _masked(inputs):
    found.append(pl.BlockSpec(inputs.mask.shape, lambda g, b, i: (0, 0, 0)))
    found.append(pl.BlockSpec(memory_space=pltpu.SMEM))
  return found


def _band_spec(plan: Plan, band: int) -> pl.BlockSpec:
  """Half of a shifted row of windows starts in the middle of a row."""
  count, first = plan.bands * plan.down, band + (1 if plan.shift else 0)
  block = (plan.images, plan.rows // plan.bands, plan.width, plan.lanes)
  at = lambda i: jax.lax.rem(plan.bands * i + first, count) if count > 1 else 0
  return pl.BlockSpec(block, lambda g, b, i: (b, at(i), 0, g))


def _out_spec(plan: Plan) -> pl.BlockSpec:
  """A shifted row of windows is no block: the image stays until it is whole."""
  if plan.shift:
    block = (plan.images, plan.height, plan.width, plan.lanes)
    return pl.BlockSpec(block, lambda g, b, i: (b, 0, 0, g))
  block = (plan.images, plan.rows, plan.width, plan.lanes)
  return pl.BlockSpec(block, lambda g, b, i: (b, i, 0, g))


def _group_spec(x: Array) -> pl.BlockSpec:
  return pl.BlockSpec((1, *x.shape[1:]), lambda g, b, i: (g, 0, 0))


def _scratch(inputs: Inputs, plan: Plan, *, count: int) -> list[pltpu.VMEM]:
  """Tokens by window, for what the kernel reads and writes."""
  shape = (plan.images * plan.across, plan.tokens, plan.lanes)
  return [pltpu.VMEM(shape, inputs.q.dtype)] * count


def _cost(
  inputs: Inputs, plan: Plan, *, tokens: int, cycles: _Cycles
) -> pl.CostEstimate:
  """For the scheduler, and for who prices a program from its text.

  FLOPs are those that the matrix units could do in the time that the kernel
  takes (see `_Cycles`), so that a roofline gives that time; one by what they
  do would give two thirds of it, and one by useful operations a sixth.
  """
  windows = plan.batch * plan.down * plan.across * plan.groups
  lanes = [tile.lanes.stop - tile.lanes.start for tile in plan.tiles]
  registers = -(-plan.tokens // 8) * sum(-(-n // 128) for n in lanes)
  spent = windows * (registers * cycles.register + cycles.window)
  device = jax.typeof(inputs.q).sharding.mesh.abstract_device
  if plan.similarity == 'cosine':
    spent *= _COSINE
  wide = device is not None and device.device_kind in _WIDE
  groups = inputs.bias.size * inputs.bias.dtype.itemsize
  return pl.CostEstimate(
    flops=int(spent * (_WIDE_FLOPS if wide else _FLOPS)),
    transcendentals=windows * plan.heads * plan.tokens**2,
    bytes_accessed=tokens * inputs.q.size * inputs.q.dtype.itemsize + groups,
  )
