"""Adaptive merging and the losses of noisy routers (fixtures 07 and 09)."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.moe import balance
from rsfm_jax.moe import routing
from rsfm_jax.nn import patches

# What the fixtures ask of float32.
LIMIT = 1e-5


def test_adaptive_merging_and_its_gradients(golden, near):
  fixture = golden('07_skysense_v2_adaptive_patch_merging')
  graphdef = nnx.split(
    nnx.eval_shape(
      lambda: patches.AdaptivePatchMerging(12, key=jax.random.key(0))
    )
  )[0]

  def merge(w, x, mode):
    norm = {'scale': w['norm.weight'], 'bias': w['norm.bias']}
    made = nnx.merge(graphdef, {'kernel': w['kernel'], 'norm': norm})
    return made(x, mode)

  def loss(w, x):
    down, keep = merge(w, x, 'reduce'), merge(w, x, 'keep')
    total = (down * fixture['cot/down']).sum()
    return total + (keep * fixture['cot/keep']).sum(), (down, keep)

  step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  (_, (down, keep)), (dw, dx) = step(fixture.group('w/'), fixture['in/x'])
  near(down, fixture['out/down'], LIMIT)
  near(keep, fixture['out/keep'], LIMIT)
  near(dx, fixture['grad/in/x'], LIMIT)
  for name, gradient in fixture.group('grad/w/').items():
    near(dw[name], gradient, LIMIT, name=name)


@pytest.mark.parametrize('name', ['importance', 'load'])
def test_losses_of_vmoe_as_functions_of_sums(golden, near, name):
  fixture = golden('09_moe_losses')
  std = fixture.meta['config']['noise_std']

  def losses(logits):
    one = lambda logits, noise: getattr(
      balance.demand(logits, noise, choices=1, std=std), name
    )
    sums = jax.vmap(one)(logits, fixture['in/noise'])
    found = balance.variation(sums)
    return found.sum(), found

  (_, found), gradient = jax.jit(jax.value_and_grad(losses, has_aux=True))(
    fixture['in/logits']
  )
  near(found, fixture[f'out/vmoe_{name}'], LIMIT)
  near(gradient, fixture[f'grad/in/vmoe_{name}/logits'], LIMIT)


def test_tutel_differs_in_the_variance_alone(golden, near):
  """Its load term with logits on both sides, over one batch of all tokens."""
  fixture = golden('09_moe_losses')
  config = fixture.meta['config']
  flat = lambda n: jnp.asarray(fixture[f'in/{n}'].reshape(-1, config['E']))
  sums = balance.demand(
    flat('logits'), flat('noise'), choices=1, std=config['noise_std']
  )
  unbiased = config['E'] / (config['E'] - 1)
  near(
    unbiased * balance.variation(sums.importance),
    fixture['out/tutel_importance'],
    LIMIT,
  )
  near(
    unbiased * balance.variation(sums.load),
    fixture['out/tutel_load_consistent'],
    LIMIT,
  )


@pytest.mark.parametrize(
  ('case', 'choices', 'priority'),
  [('k1_cf1.25_bpr', 1, 'batch'), ('k1_cf1.0', 1, 'first_come')],
)
def test_who_comes_first_at_an_expert(golden, case, choices, priority):
  fixture = golden('09_moe_losses')
  logits = fixture['in/logits']
  logits = jnp.asarray(logits.reshape(-1, logits.shape[-1]))
  groups = routing.TokenGroups((len(logits),), (0,))
  found = routing.route(logits, groups, choices=choices, priority=priority)
  read = lambda name: fixture[f'out/tutel/{case}/{name}']
  np.testing.assert_array_equal(found.expert, read('expert'))
  np.testing.assert_array_equal(found.position, read('location'))
  np.testing.assert_allclose(found.gate, read('gate'), rtol=LIMIT)
