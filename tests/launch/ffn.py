"""A sharded FFN with momentum SGD: the smallest step worth compiling."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rsfm_jax.launch import aot
from rsfm_jax.sharding import mesh as meshes


def step(devices, *, tokens=256, width=256, layers=2, batch=4, **mesh_sizes):
  """L layers of width D over `fsdp`, B x T tokens over all batch axes."""
  sizes = mesh_sizes or {'data': 1, 'fsdp': len(devices)}
  mesh = meshes.make_mesh(**sizes, devices=devices)

  def array(shape, dtype, *spec):
    sharding = NamedSharding(mesh, P(*spec))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  weights = {
    'w_in': array((layers, width, 4 * width), jnp.float32, None, 'fsdp'),
    'w_out': array((layers, 4 * width, width), jnp.float32, None, None, 'fsdp'),
  }
  state = {
    'step': array((), jnp.int32),
    'params': weights,
    'opt': {'momentum': weights},
  }
  whole = {'opt': {'image': jax.ShapeDtypeStruct((batch,), jnp.bfloat16)}}
  meshes.check_batch(whole, mesh)
  x = jax.ShapeDtypeStruct(
    (batch, tokens, width), jnp.bfloat16, sharding=meshes.batch_sharding(mesh)
  )
  shardings = jax.tree.map(lambda x: x.sharding, state)
  return aot.Step(
    step_fn=jax.jit(train, donate_argnums=0, out_shardings=(shardings, None)),
    state=state,
    batch={'opt': {'image': x}},
    rest=(jax.eval_shape(lambda: jax.random.key(0)),),
    mesh=mesh,
    images=batch,
    flops=3 * layers * 2 * 2 * batch * tokens * width * 4 * width,
  )


def loss(params, x):
  def layer(x, weights):
    hidden = jax.nn.gelu(x @ weights['w_in'].astype(x.dtype))
    return x + hidden @ weights['w_out'].astype(x.dtype), None

  x, _ = jax.lax.scan(layer, x, params)
  return jnp.mean(jnp.square(x.astype(jnp.float32)))


def train(state, batch, key):
  del key  # Nothing here is random.
  value, gradients = jax.value_and_grad(loss)(
    state['params'], batch['opt']['image']
  )
  momentum = jax.tree.map(
    lambda m, g: 0.9 * m + g, state['opt']['momentum'], gradients
  )
  params = jax.tree.map(lambda p, m: p - 0.1 * m, state['params'], momentum)
  new = {
    'step': state['step'] + 1,
    'params': params,
    'opt': {'momentum': momentum},
  }
  return new, {'loss': value}
