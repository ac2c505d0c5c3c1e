"""The FFNs of a dropless MoE: sorted rows, each by its own expert.

Rows stand together by expert, without padding; `counts` says how many each has.
The VJP is written: forward keeps the rows and the pre-activations, backward
computes the GELU again, and no array of [blocks, D, F] is ever made. Two
engines hold the products, each with the same saved arrays:

| engine | module | default on |
|---|---|---|
| blocks | `moe.blocks`: loops over blocks of rows | CPU |
| ragged | `moe.ragged`: grouped products | TPU, GPU |

Inside `jax.shard_map` either needs `check_vma=False`, as kernels do.

Letters: N rows, E experts, D embed, F hidden.
"""

import functools
from typing import Literal

import jax

from rsfm_jax.moe import blocks
from rsfm_jax.moe import ragged
from rsfm_jax.nn import mlp
from rsfm_jax.nn import remat

Array = jax.Array
Engine = Literal['blocks', 'ragged']

_MODULES = {'blocks': blocks, 'ragged': ragged}


def ffn(
  rows: Array,
  counts: Array,
  w_in: Array,
  b_in: Array,
  w_out: Array,
  b_out: Array,
  *,
  engine: Engine | None = None,
  activation: mlp.Activation = 'gelu_tanh',
) -> Array:
  """Row n of expert e -> gelu(x_n w_in_e + b_in_e) w_out_e + b_out_e.

  Args:
    rows: [N, D], all rows of expert 0, then of expert 1, and so on. What stands
      beyond the sum of the counts is never read into a result.
    counts: i32[E], rows of each expert; their sum is at most N.
    w_in: [E, D, F].
    b_in: [E, F].
    w_out: [E, F, D].
    b_out: [E, D].
    engine: None takes 'blocks' where the program is lowered for CPU and
      'ragged' elsewhere.
    activation: one of `mlp.ACTIVATIONS`.

  Returns:
    [N, D] in the dtype of `rows`, zeros beyond the counts. Operands of the
    products have that dtype; gradients of the weights are summed in float32.

  Raises:
    ValueError: an engine that is not there, or shapes that do not fit.
  """
  if engine is not None and engine not in _MODULES:
    raise ValueError(f'engine={engine!r} is not one of {sorted(_MODULES)}.')
  experts, dim, hidden = w_in.shape
  found = [v.shape for v in (counts, b_in, w_out, b_out)]
  wanted = [(experts,), (experts, hidden), (experts, hidden, dim)]
  if found != [*wanted, (experts, dim)] or rows.shape[1:] != (dim,):
    raise ValueError(
      f'rows {rows.shape} and weights {[w_in.shape, *found[1:]]} for '
      f'{found[0]} counts do not fit [N, D], [E, D, F], [E, F], [E, F, D], '
      '[E, D].'
    )
  return _ffn(rows, counts, (w_in, b_in, w_out, b_out), engine, activation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _ffn(rows, counts, weights, engine, activation):
  return _forward(rows, counts, weights, engine, activation)[0]


def _forward(rows, counts, weights, engine, activation):
  run = functools.partial(_run, 'forward', engine, activation)
  y, hidden = run(rows, counts, weights)
  return y, (rows, counts, weights, remat.hidden(hidden))


def _backward(engine, activation, saved, dy):
  rows, counts, weights, hidden = saved
  run = functools.partial(_run, 'backward', engine, activation)
  dx, *dw = run(rows, counts, weights, hidden, dy)
  dw = tuple(d.astype(w.dtype) for d, w in zip(dw, weights, strict=True))
  return dx, None, dw


_ffn.defvjp(_forward, _backward)


def _run(name: str, engine: Engine | None, activation: mlp.Activation, *args):
  """The choice stands inside the VJP, so that engines share what is saved."""
  of = {
    key: functools.partial(getattr(module, name), activation=activation)
    for key, module in _MODULES.items()
  }
  if engine is not None:
    return of[engine](*args)
  return jax.lax.platform_dependent(
    *args, cpu=of['blocks'], default=of['ragged']
  )
