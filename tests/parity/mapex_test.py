"""The router with a bias per sensor (fixture 09): outputs, gates, gradients."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.moe import balance
from rsfm_jax.moe import experts
from rsfm_jax.moe import layer as moe_layer
from rsfm_jax.moe import routers

CLOSE = 1e-5


@pytest.fixture(scope='module')
def fixture(golden):
  return golden('09_mapex_router_pruning')


def test_routing_output_usage_and_gradients(fixture, near):
  config = fixture.meta['config']
  kind = routers.Kind('bias', config['M'])
  graphdef, state = nnx.split(
    nnx.eval_shape(
      lambda: moe_layer.MoE(
        config['d'],
        config['h'],
        config['E'],
        key=jax.random.key(0),
        router=kind,
      )
    )
  )
  names = {'w_in': 'w1', 'b_in': 'b1', 'w_out': 'w2', 'b_out': 'b2'}

  def run(w, x):
    params = nnx.to_pure_dict(state)
    params['routed'] = {
      ours: w[f'experts.{theirs}'] for ours, theirs in names.items()
    } | {'router': w['router.weight'].T}
    params['router_bias'] = w['router.modality_bias']
    y, sums = nnx.merge(graphdef, params)(
      x[None],
      options=experts.Options('dropless', activation='gelu'),
      sensor=jnp.asarray(fixture['in/modality'])[None],
    )
    return (y[0] * fixture['cot/y']).sum(), (y[0], sums)

  w = {n: jnp.asarray(v) for n, v in fixture.group('w/').items()}
  step = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))
  (loss, (y, sums)), (dw, dx) = step(w, jnp.asarray(fixture['in/x']))
  near(y, fixture['out/y'], CLOSE)
  near(loss, fixture['out/loss'], CLOSE)
  usage = sums.chosen / sums.tokens[:, None]
  near(usage, fixture['out/usage'], CLOSE)
  gate = np.where(sums.chosen > 0, sums.gate / np.maximum(sums.chosen, 1), 0)
  near(gate, fixture['out/gate_mean'], CLOSE)
  total = sums.demand.importance.sum(0)
  near(balance.variation(total), fixture['out/importance_loss'], CLOSE)
  near(dx, fixture['grad/in/x'], CLOSE)
  for name, gradient in fixture.group('grad/w/').items():
    near(dw[name], gradient, CLOSE, name=name)
