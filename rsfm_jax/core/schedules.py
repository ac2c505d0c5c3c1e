"""Values that change with the step."""

import jax
import jax.numpy as jnp


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
