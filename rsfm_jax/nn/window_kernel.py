"""Window attention on [B, H, W, N * K] by a fused kernel, where there is one.

On TPU the kernels of `window_pallas` read queries, keys and values as the
dense layers write them and give the result in the same layout: no head axis is
transposed, no logit goes through HBM, and neither the windows nor their shift
cost a copy. Other platforms take the plain form, which is also the oracle. A
GPU does so too: a kernel for it would have to be measured first, and no
default rests on a guess.

Which of the two is decided when a program is traced, by the devices of its
arguments: compiled for a TPU mesh on a machine that has none it contains the
kernel. `jax.lax.platform_dependent` would decide later, but its gradient
traces both forms, and each keeps zeros for what the other one keeps: on CPU,
tracing the gradient of RingMoE tiny took 15 s of processor time instead of 1.5.

By the compiler's schedules for v5p, RingMoE giant's attention (dense layers
included, forward and backward, bfloat16, `v1_bias`, 16 images; shifted in
stages 0 and 1) takes fewer cycles fused in every stage, so that 'auto' takes
the kernel in all of them. In thousands, of which the kernel itself:

| stage | D | grid | plain | fused | kernel |
|---|---|---|---|---|---|
| 0 | 448 | 48 x 48 | 11957 | 2689 | 949 |
| 1 | 896 | 24 x 24 | 5456 | 1390 | 415 |
| 2 | 1792 | 12 x 12 | 2635 | 1202 | 208 |
| 3 | 3584 | 6 x 6 | 2128 | 1213 | 84 |
"""

from collections.abc import Callable
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec
import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.nn import window_body
from rsfm_jax.nn import window_pallas
from rsfm_jax.nn import window_tiles
from rsfm_jax.nn import windows
from rsfm_jax.sharding import mesh as meshes

Array = jax.Array
Engine = Literal['auto', 'plain', 'fused']
ENGINES = ('auto', 'plain', 'fused')

WHOLE = PartitionSpec()
CUT = PartitionSpec(meshes.BATCH_AXES)


def choose(
  x: Array,
  *,
  plain: Callable[[Array], Array],
  fused: Callable[[Array], Array],
  window: int,
  heads: int,
  engine: Engine = 'auto',
) -> Array:
  """`fused(x)` or `plain(x)`, two forms of one function.

  Args:
    x: [B, H, W, D].
    plain: for every platform and size.
    fused: by `attend`.
    window: side of a window, in tokens.
    heads: N.
    engine: 'auto' takes the kernel on TPU if it serves the sizes; 'plain' and
      'fused' hold everywhere, and 'fused' is interpreted, slowly, where it
      cannot compile.

  Raises:
    ValueError: an unknown engine, or 'fused' for sizes it does not serve.
  """
  choices.check(engine, ENGINES, key='model.attention_engine')
  serves = window_tiles.supports(window, x.shape[-1], heads)
  if engine == 'fused' and not serves:
    raise ValueError(
      f"model.attention_engine='fused' does not serve windows of {window} and "
      f'{heads} heads of {x.shape[-1] // heads}: at most '
      f'{window_tiles.MAX_TOKENS} tokens a window, and a size of heads that '
      f"divides {window_tiles.LANES}; choose 'auto' or 'plain'."
    )
  if engine == 'fused':
    return fused(x)
  if engine == 'plain' or not serves:
    return plain(x)
  return fused(x) if _platform(x) == 'tpu' else plain(x)


def _platform(x: Array) -> str:
  """Where `x` will be computed: on its mesh, else by the default backend."""
  device = jax.typeof(x).sharding.mesh.abstract_device
  return device.platform if device else jax.default_backend()


def attend(
  q: Array,
  k: Array,
  v: Array,
  bias: Array,
  scale: Array,
  *,
  window: int,
  shift: int = 0,
  similarity: window_tiles.Similarity = 'dot',
  mesh: Mesh | None = None,
) -> Array:
  """softmax(scale sim(q, k) + bias) v of every head inside every window.

  Tokens that the cyclic shift made neighbours see each other behind
  `windows.MASKED_LOGIT`.

  Args:
    q: [B, H, W, N * K].
    k: [B, H, W, N * K].
    v: [B, H, W, N * K].
    bias: f32[N, T, T] by (head, query, key).
    scale: f32[N], multiplies the similarities of a head.
    window: side of a window; T is its square.
    shift: of the windows, towards the origin, as `windows.layout` gives it.
    similarity: 'dot', or 'cosine' of Swin V2.
    mesh: the devices that B is cut over, along `sharding.mesh.BATCH_AXES`; a
      kernel is opaque to the partitioner, which would gather B without it.

  Returns:
    [B, H, W, N * K] in the dtype of q; softmax and sums in float32.

  Raises:
    ValueError: B does not divide over the mesh.
  """
  batch, height, width, _ = q.shape
  mesh = _checked(batch, mesh)
  mask = None
  if shift:
    mask = windows.shift_mask(height, width, window, shift)
  settings = dict(heads=len(bias), window=window, similarity=similarity)
  plan = window_tiles.make_plan(q, shift=shift, **settings)
  inside = (height, width) != (window, window) and window_tiles.in_place(plan)
  if not inside:
    cut = lambda y: windows.partition(windows.roll(y, shift), window)[:, None]
    q, k, v = cut(q), cut(k), cut(v)
    plan = window_tiles.make_plan(q, shift=0, **settings)
  inputs = _inputs(q, k, v, bias, scale, mask, plan)
  y = _attend(plan, mesh, inputs)
  if inside:
    return y
  return windows.roll(windows.merge(y, window, height, width), -shift)


def _checked(batch: int, mesh: Mesh | None) -> Mesh | None:
  if mesh is None or mesh.size == 1:
    return None
  shards = meshes.batch_shards(mesh)
  if batch % shards:
    raise ValueError(
      f'{batch} images do not divide over {shards} = mesh.data x mesh.fsdp x '
      'mesh.expert devices.'
    )
  return mesh


def _inputs(
  q: Array,
  k: Array,
  v: Array,
  bias: Array,
  scale: Array,
  mask: np.ndarray | None,
  plan: window_tiles.Plan,
) -> window_pallas.Inputs:
  """Bias and mask by tiles, for natural logits."""
  lanes = jnp.pad(
    jnp.repeat(scale, plan.head), (0, plan.groups * plan.lanes - plan.dim)
  )
  tiles = kinds = None
  if mask is not None:
    # Most windows of a shifted grid share one mask, that of none.
    different, kinds = np.unique(mask, axis=0, return_inverse=True)
    tiles = window_tiles.arrange_mask(different, plan)
    kinds = kinds.reshape(-1).astype(np.int32)
  return window_pallas.Inputs(
    q,
    k,
    v,
    lanes.reshape(plan.groups, 1, plan.lanes),
    window_tiles.arrange_bias(bias, plan),
    tiles,
    kinds,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
  plan: window_tiles.Plan, mesh: Mesh | None, inputs: window_pallas.Inputs
) -> Array:
  def run(inputs, *, interpret):
    local = window_tiles.for_batch(plan, len(inputs.q))
    return window_pallas.forward(_in_base_2(inputs), local, interpret=interpret)

  return _on_shards(run, mesh, (inputs,), CUT)


def _attend_forward(plan, mesh, inputs):
  return _attend(plan, mesh, inputs), inputs


def _attend_backward(plan, mesh, inputs, dy):
  def run(inputs, dy, *, interpret):
    local = window_tiles.for_batch(plan, len(inputs.q))
    d = window_pallas.backward(
      _in_base_2(inputs), dy, local, interpret=interpret
    )
    if mesh is None:
      return d
    total = lambda x: jax.lax.psum(x, meshes.BATCH_AXES)
    return d._replace(bias=total(d.bias), scale=total(d.scale))

  specs = window_body.Gradients(CUT, CUT, CUT, WHOLE, WHOLE)
  d = _on_shards(run, mesh, (inputs, dy), specs)
  return (window_pallas.Inputs(d.q, d.k, d.v, scale=d.scale, bias=d.bias),)


_attend.defvjp(_attend_forward, _attend_backward)


def _in_base_2(inputs: window_pallas.Inputs) -> window_pallas.Inputs:
  factor = window_body.LOG2_E
  mask = None if inputs.mask is None else inputs.mask * factor
  return inputs._replace(bias=inputs.bias * factor, mask=mask)


def _on_shards(
  run: Callable[..., Any], mesh: Mesh | None, given: tuple, out_specs: Any
) -> Any:
  """`run` on what a device holds of B; compiled on TPU, else interpreted."""

  def body(*given):
    return jax.lax.platform_dependent(
      *given,
      tpu=functools.partial(run, interpret=False),
      default=functools.partial(run, interpret=True),
    )

  if mesh is None:
    return body(*given)
  inputs, *cotangents = given
  whole = jax.tree.map(lambda _: WHOLE, inputs)
  in_specs = (whole._replace(q=CUT, k=CUT, v=CUT), *[CUT for _ in cotangents])
  return jax.shard_map(
    body, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
  )(*given)
