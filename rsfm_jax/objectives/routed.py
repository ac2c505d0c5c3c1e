"""What a layer of routed experts reports, by sensor."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from rsfm_jax.moe import balance
from rsfm_jax.moe import layer as moe_layer

Array = jax.Array
BySensor = Mapping[str, moe_layer.Statistics]


def total(by_sensor: BySensor) -> moe_layer.Statistics:
  """Sums over all sensors, with a leading axis L over the layers."""
  return jax.tree.map(lambda *a: sum(a), *by_sensor.values())


def metrics(by_sensor: BySensor) -> dict[str, Array]:
  """[L, M(, E)] and [L]: load, drops, entropy, I(sensor; expert) in nats.

  The last is of what tokens prefer without the gates' noise, which would hide
  it, of one batch: chance alone gives about (M - 1)(E - 1) / 2 N of N choices.
  """
  rows = jax.tree.map(lambda *a: jnp.stack(a, 1), *by_sensor.values())
  tokens = jnp.maximum(rows.tokens, 1)
  chosen = jnp.maximum(rows.chosen.sum(-1), 1)
  load = rows.chosen / chosen[..., None]
  found = {
    'routed_load': load,
    'routed_dropped': rows.dropped / chosen,
    'routed_entropy': rows.entropy / tokens,
    'mutual_information': balance.mutual_information(
      rows.preferred / jnp.maximum(rows.preferred.sum(-1, keepdims=True), 1),
      rows.tokens[0] / jnp.maximum(rows.tokens[0].sum(), 1),
    ),
  }
  return jax.lax.stop_gradient(found)
