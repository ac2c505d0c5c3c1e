"""One routed FFN on 16 v5p chips against a dense one, by the TPU's compiler.

Output and all gradients, bfloat16, d 1408, hidden 5,632, 8,192 tokens a chip.
`exchange` has one of 16 experts on each chip, `home` four experts that no token
has to leave its chip for. Needs no TPU; half a minute a row.

  python experiments/E010_scaling/ffn.py
"""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rsfm_jax.launch import estimate
from rsfm_jax.launch import hlo
from rsfm_jax.launch import topologies
from rsfm_jax.moe import expert_parallel
from rsfm_jax.moe import experts
from rsfm_jax.moe import routing
from rsfm_jax.nn import mlp
from rsfm_jax.sharding import mesh as meshes

CHIPS, TOKENS, DIM = 16, 8192, 1408
HIDDEN = 4 * DIM
SHAPES = ((DIM, HIDDEN), (HIDDEN,), (HIDDEN, DIM), (DIM,))
TOPOLOGY = topologies.parse('v5p:2x2x4')
# As `train/step` asks for.
OPTIONS = {'xla_tpu_enable_async_all_to_all': 'true'}
AXES = expert_parallel.Axes(batch=meshes.BATCH_AXES, expert='expert')
ALONE = P('expert')
WAYS = {
  'capacity 1.25': experts.Options(capacity_factor=1.25),
  'capacity 1.2': experts.Options(capacity_factor=1.2),
  'capacity 1.0': experts.Options(capacity_factor=1.0),
  'capacity 1.25, 2 chunks': experts.Options(capacity_factor=1.25, chunks=2),
  'capacity 1.25, 4 chunks': experts.Options(capacity_factor=1.25, chunks=4),
  'dropless': experts.Options(engine='dropless', buffer_factor=1.25),
}


class Layers:
  """Compiles layers for one mesh."""

  def __init__(self):
    self.mesh = meshes.make_mesh(
      data=1, expert=CHIPS, devices=TOPOLOGY.devices()
    )

  def array(self, shape, spec, dtype=jnp.bfloat16):
    sharding = NamedSharding(self.mesh, spec)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  def seconds(self, layer, weights, specs) -> float:
    """Estimated time of output and gradients."""
    batch = P(meshes.BATCH_AXES)
    x = self.array((CHIPS * TOKENS, DIM), batch)
    sharded = jax.shard_map(
      layer,
      mesh=self.mesh,
      in_specs=(batch, specs),
      out_specs=(batch, P()),
      check_vma=False,
    )

    def both(x, weights, dy):
      (y, loss), pull = jax.vjp(sharded, x, weights)
      return y, loss, pull((dy, jnp.ones_like(loss)))

    lowered = jax.jit(both).lower(x, weights, x)
    text = lowered.compile(compiler_options=OPTIONS).as_text()
    return estimate.estimate(hlo.parse(text), TOPOLOGY.chip).seconds

  def dense(self) -> float:
    layer = lambda x, w: (mlp.stacked_ffn(x[None], *w)[0], jnp.zeros(()))
    weights = tuple(self.array((CHIPS, *s), ALONE) for s in SHAPES)
    return self.seconds(layer, weights, (ALONE,) * 4)

  def routed(self, way: experts.Options, *, at_home: bool) -> float:
    axes = expert_parallel.LOCAL if at_home else AXES
    groups = routing.TokenGroups((TOKENS,), (0,))

    def layer(x, weights):
      sent = experts.send(x, weights, groups, way, axes)
      y = experts.compute(x, sent, weights, groups, axes)
      return y, AXES.mean(sent.balance + sent.z)

    if at_home:
      specs = experts.Weights(*(ALONE,) * 5)
      router, lead = (CHIPS, DIM, 4), (CHIPS, 4)
    else:
      specs = experts.Weights(P(), *(P(None, 'expert'),) * 4)
      router, lead = (1, DIM, CHIPS), (1, CHIPS)
    weights = experts.Weights(
      self.array(router, specs.router, jnp.float32),
      *(self.array((*lead, *s), specs.w_in) for s in SHAPES),
    )
    return self.seconds(layer, weights, specs)


def main() -> None:
  layers = Layers()
  dense = layers.dense()
  print(f'dense FFN: {1e6 * dense:,.0f} us')
  for at_home in (False, True):
    for name, way in WAYS.items():
      if at_home and way.chunks > 1:
        continue
      took = layers.routed(way, at_home=at_home)
      where = 'home' if at_home else 'exchange'
      print(f'{where:9s}{name:24s} {1e6 * took:7,.0f} us {took / dense:.2f}')


if __name__ == '__main__':
  main()
