"""The pure train step, and the only `jax.jit` of training.

A state is `{'step': i32[], 'params', 'opt', 'extra', 'ema' (optional),
'nonfinite': {'total': i32[], 'in_a_row': i32[]}}`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rsfm_jax.core import trees
from rsfm_jax.train import optim

Loss = Callable[..., tuple[jax.Array, dict[str, Any]]]
Step = Callable[..., tuple[trees.Tree, dict[str, Any]]]

_TPU_OPTIONS = {
  # Tokens travel while other experts compute. By the compiler's estimate a lone
  # FFN of 16 experts over 16 v5p chips takes 1.61 instead of 1.69 times as long
  # as a dense one (8,192 tokens a chip, d 1408, capacity 1.2).
  'xla_tpu_enable_async_all_to_all': 'true',
  # Products are not cut into loops over gathered weights where few devices
  # share them: with fsdp=4 on 16 v5p chips those loops execute 1.25 instead of
  # 1.11 times the model's FLOPs and take RingMoE giant from 42.5 to 28.0 % MFU
  # by the compiler's estimate. In MiB; none is as large.
  'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000',
}


def init_state(
  params: trees.Tree,
  extra: trees.Tree,
  tx: optim.Optimizer,
  *,
  ema: bool = False,
) -> trees.Tree:
  """The state before step 0.

  The arrays are those given, so the first (donating) step consumes them; the
  EMA is a copy, since one buffer cannot be donated twice.

  Args:
    params: what is optimised.
    extra: what is checkpointed and changed by `after_update` only.
    tx: as `optim.make` gives it.
    ema: also keep a moving average of the parameters.
  """
  state = {
    'step': jnp.zeros((), jnp.int32),
    'params': params,
    'opt': tx.init(params),
    'extra': extra,
    'nonfinite': {
      'total': jnp.zeros((), jnp.int32),
      'in_a_row': jnp.zeros((), jnp.int32),
    },
  }
  if ema:
    state['ema'] = jax.tree.map(lambda p: jnp.array(p, jnp.float32), params)
  return state


def make_train_step(
  loss: Loss,
  tx: optim.Optimizer,
  *,
  accumulate: int = 1,
  ema_decay: float | Callable[[jax.Array], jax.Array] | None = None,
  after_update: Callable[..., trees.Tree] | None = None,
) -> Step:
  """Returns the pure `step(state, batch, key) -> (state, metrics)`.

  A non-finite loss or gradient leaves parameters, optimiser, EMA and extra
  bit-identical; only `step` and the `nonfinite` counters move, so that data
  and schedules stay functions of the step.

  Args:
    loss: `(params, seen, batch, key) -> (f32[], aux)`; aux is a nested dict of
      scalars and small arrays. It must be a mean over samples of each sensor
      for accumulation to be exact. `seen` is the state's extra, with the
      `step` and, if the state has one, the `ema`: a teacher.
    tx: the optimiser.
    accumulate: the number of microbatches whose gradients are averaged.
    ema_decay: a constant or a function of the step; None when the state has no
      `ema`.
    after_update: `(params, extra, aux, step) -> extra`, with new parameters.

  Returns:
    The step. Its metrics are `loss`, `grad_norm` (before clipping), `lr`,
    `nonfinite` and the aux, without entries whose name starts with '_' (those
    are meant for `after_update` only).
  """
  grad_fn = jax.value_and_grad(loss, has_aux=True)

  def step(state, batch, key):
    index = state['step']
    key = jax.random.fold_in(key, index)
    gradients = _whole if accumulate == 1 else _accumulated
    seen = {**state['extra'], 'step': index}
    if 'ema' in state:
      seen['ema'] = state['ema']
    (value, aux), grads = gradients(
      grad_fn, state['params'], seen, batch, key, accumulate
    )
    norm = optim.global_norm(grads)
    finite = jnp.isfinite(value) & jnp.isfinite(norm)

    params, opt = tx.update(grads, state['opt'], state['params'], index)
    new = {'params': params, 'opt': opt, 'extra': state['extra']}
    if after_update is not None:
      new['extra'] = after_update(params, state['extra'], aux, index)
    if 'ema' in state:
      new['ema'] = _moved_average(state['ema'], params, ema_decay, index)
    old = {name: state[name] for name in new}
    new = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

    seen = state['nonfinite']
    missed = jnp.where(finite, 0, 1).astype(jnp.int32)
    new['nonfinite'] = {
      'total': seen['total'] + missed,
      'in_a_row': jnp.where(finite, 0, seen['in_a_row'] + 1),
    }
    new['step'] = index + 1
    metrics = {
      'loss': value,
      'grad_norm': norm,
      'lr': tx.learning_rate(index),
      'nonfinite': new['nonfinite'],
    }
    return new, metrics | _reported(aux, metrics)

  return step


def jit_step(step: Step, *, state_shardings: trees.Tree | None = None) -> Step:
  """Compiles a step; the state is donated and keeps its shardings.

  Metrics are whole on every device, so that each process can read them.

  Args:
    step: as `make_train_step` gives it.
    state_shardings: NamedShardings of the state, None on one device.
  """
  if state_shardings is None:
    return jax.jit(step, donate_argnums=0)
  mesh = jax.tree.leaves(state_shardings)[0].mesh
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  on_tpu = mesh.devices.flat[0].platform == 'tpu'
  return jax.jit(
    step,
    donate_argnums=0,
    out_shardings=(state_shardings, whole),
    compiler_options=_TPU_OPTIONS if on_tpu else None,
  )


def _whole(grad_fn, params, seen, batch, key, accumulate):
  del accumulate
  return grad_fn(params, seen, batch, key)


def _accumulated(grad_fn, params, seen, batch, key, accumulate):
  """Means of loss, aux and gradients over equal microbatches, by scan."""

  def body(total, index_and_micro):
    index, micro = index_and_micro
    out, grads = grad_fn(params, seen, micro, jax.random.fold_in(key, index))
    return jax.tree.map(jnp.add, total, grads), out

  zeros = jax.tree.map(jnp.zeros_like, params)
  total, outs = jax.lax.scan(
    body, zeros, (jnp.arange(accumulate), microbatches(batch, accumulate))
  )
  grads = jax.tree.map(lambda g: g / accumulate, total)
  return jax.tree.map(lambda x: jnp.mean(x, axis=0), outs), grads


def microbatches(batch: trees.Tree, count: int) -> trees.Tree:
  """Cuts every leaf [B, ...] into [count, B // count, ...]; B may differ.

  Microbatch i takes the samples i, i + count, ...: a strided cut keeps each
  device's samples on that device when B is sharded; a contiguous one would
  move them all.

  Raises:
    ValueError: a sensor's batch is no multiple of `count`.
  """

  def cut(name, x):
    if x.ndim == 0 or x.shape[0] % count:
      raise ValueError(
        f'train.accumulate={count} does not divide batch entry {name} of '
        f'shape {x.shape}.'
      )
    return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)

  return trees.map_named(cut, batch)


def _moved_average(ema, params, decay, index):
  if decay is None:
    raise ValueError('The state has an EMA, but train.ema_decay is None.')
  rate = 1.0 - (decay(index) if callable(decay) else decay)
  return jax.tree.map(lambda e, p: e + rate * (p - e), ema, params)


def _reported(aux: Mapping[str, Any], taken: Mapping[str, Any]):
  aux = {k: v for k, v in aux.items() if not k.startswith('_')}
  if clash := sorted(set(aux) & set(taken)):
    raise ValueError(f'A loss must not name its aux {clash}: those are taken.')
  return aux
