"""A two-sensor toy to train; as a program it is a run to be killed.

`python toy.py WORKDIR SECONDS_PER_STEP` trains to `STEPS`, saving every third.
"""

import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.train import checkpoint
from rsfm_jax.train import hooks
from rsfm_jax.train import loop
from rsfm_jax.train import optim
from rsfm_jax.train import run
from rsfm_jax.train import step as step_lib
from rsfm_jax.train import writers

STEPS = 12
CONFIG = {'optim': {'learning_rate': 0.05}, 'seed': 7}
SPEC = optim.OptimSpec(
  learning_rate=0.05,
  total_steps=STEPS,
  warmup_steps=2,
  decay_rules=(('.*/bias', False), ('.*', True)),
)


def init_params():
  key = jax.random.key(3)
  return {
    'trunk': {
      'kernel': jax.random.normal(key, (8, 8)) / 3.0,
      'bias': jnp.zeros((8,)),
    },
    'head': {'kernel': jax.random.normal(key, (8, 4))},
  }


def loss(params, extra, batch, key):
  """A masked-autoencoder in miniature: noise from the key, means per sensor."""
  del extra
  total, aux = 0.0, {}
  noise = 0.1 * jax.random.uniform(key, (1, 8))
  for sensor, arrays in sorted(batch.items()):
    x = arrays['image']
    y = jnp.tanh((x + noise) @ params['trunk']['kernel'])
    y = (y + params['trunk']['bias'][None]) @ params['head']['kernel']
    error = jnp.mean(jnp.square(y - x[:, :4]))
    aux[sensor] = error
    total += error
  return total, {'error': aux}


def batches(start=0, *, sizes=(8, 16), poison=()):
  """Batches by step: a pure function of the step, endless."""
  step = start
  while True:
    rng = np.random.default_rng([1, step])
    batch = {
      name: {'image': rng.normal(size=(size, 8)).astype(np.float32)}
      for name, size in zip(('ms', 'opt'), sizes, strict=True)
    }
    if step in poison:
      batch['opt']['image'][0, 0] = np.nan
    yield batch
    step += 1


def init_state(ema=True):
  params = init_params()
  tx = optim.make(SPEC, params)
  return step_lib.init_state(params, {}, tx, ema=ema)


def make_step(**kwargs):
  tx = optim.make(SPEC, init_params())
  return step_lib.make_train_step(loss, tx, ema_decay=0.9, **kwargs)


@functools.cache
def jitted():
  return step_lib.jit_step(make_step())


def abstract(state, sharding=None):
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or one),
    jax.eval_shape(lambda: state),
  )


def train(workdir, *, total_steps=STEPS, more=(), slow=0.0, keep=3, poison=()):
  """A whole run: opens, restores, trains with all hooks, saves every third."""
  with run.opened(workdir, CONFIG) as workdir:
    checkpoints = checkpoint.Checkpoints(workdir / 'checkpoints', keep=keep)
    state = init_state()
    restored = checkpoints.restore(abstract(state))
    start = restored.step if restored else 0
    state = restored.state if restored else state
    out = writers.of_run(workdir, after=start)

    def step_fn(*args):
      time.sleep(slow)
      return jitted()(*args)

    return loop.fit(
      state=state,
      step_fn=step_fn,
      batches=batches(start, poison=poison),
      key=jax.random.key(5),
      total_steps=total_steps,
      hooks=[
        hooks.Metrics(out),
        hooks.StopOnNonfinite(3),
        hooks.Progress(start=start, total_steps=total_steps),
        *more,
        hooks.Save(
          checkpoints, schedule=hooks.Every(3), metadata={'spec': CONFIG}
        ),
      ],
    )


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', 8)
  # As in conftest: the same program gives the same bits.
  jax.config.update('jax_disable_most_optimizations', True)
  train(sys.argv[1], slow=float(sys.argv[2]))
