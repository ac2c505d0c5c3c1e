"""Values that change with the step."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

Shape = Literal[
  'cosine', 'linear', 'poly', 'multistep', 'exponential', 'constant'
]


def cosine(
  step: jax.Array | int, *, start: float, end: float, steps: int
) -> jax.Array:
  """Half a cosine from `start` at step 0 to `end` at `steps`, then `end`.

  DINO's schedule of momentum and weight decay, DINOv2's `CosineScheduler`: the
  value at step `steps - 1` is not yet `end`.
  """
  done = jnp.clip(jnp.asarray(step, jnp.float32) / max(steps, 1), 0.0, 1.0)
  # cos(pi) is not exactly -1 in float32.
  falling = jnp.where(done < 1, 1.0 + jnp.cos(jnp.pi * done), 0.0)
  return end + 0.5 * (start - end) * falling


def falling(
  step: jax.Array | int,
  *,
  shape: Shape,
  start: float,
  end: float,
  steps: int,
  power: float = 1.0,
  gamma: float = 0.1,
  milestones: Sequence[float] = (),
  gamma_steps: int = 1,
) -> jax.Array:
  """From `start` at step 0 down to what the shape says; never below `end`.

  Args:
    step: f32[] or a number.
    shape: 'cosine' as `cosine`; 'linear' and 'poly' are
      (start - end) (1 - step / steps)^power + end, linear with power 1
      (mmengine's PolyLR); 'multistep' is multiplied by `gamma` at every
      milestone, 'exponential' by `gamma` every `gamma_steps` steps, between
      them too it falls by whole factors only; 'constant' stays.
    start: the value at step 0.
    end: the least value.
    steps: where cosine, linear and poly arrive at `end`.
    power: of 'poly'.
    gamma: see the shapes.
    milestones: shares of `steps`.
    gamma_steps: see 'exponential'.
  """
  step = jnp.asarray(step, jnp.float32)
  if shape == 'cosine':
    return cosine(step, start=start, end=end, steps=steps)
  if shape == 'constant':
    return jnp.full_like(step, start)
  if shape in ('linear', 'poly'):
    left = 1 - jnp.clip(step / max(steps, 1), 0.0, 1.0)
    return (start - end) * left ** (1.0 if shape == 'linear' else power) + end
  if shape == 'multistep':
    passed = sum((step >= share * steps) * 1.0 for share in milestones)
    passed = jnp.asarray(passed, jnp.float32)
  else:
    passed = jnp.maximum(jnp.floor(step / gamma_steps), 0.0)
  return jnp.maximum(start * gamma**passed, end)
