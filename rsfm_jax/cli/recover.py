"""Short recovery of a pruned model: distillation from the unpruned one.

Whether MAPEX or RingMoE recover before fine-tuning is NOT FOUND; DEFAULT: none.
The loss is the mean squared difference of the final features, in units of the
teacher's variance; images need no labels.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.cli import models
from rsfm_jax.core import progress
from rsfm_jax.core import rng
from rsfm_jax.core import trees
from rsfm_jax.train import optim
from rsfm_jax.train import step as steps_lib

_BATCH = 32


class Recovered(NamedTuple):
  """Parameters, and the loss before the first and at the last step."""

  params: trees.Tree
  record: dict[str, Any]


def recover(
  teacher: models.Opened,
  student: models.Opened,
  images: Mapping[str, np.ndarray],
  *,
  steps: int,
  learning_rate: float = 1e-4,
  seed: int = 0,
) -> Recovered:
  """Trains the student's parameters to give the teacher's features.

  Args:
    teacher: the unpruned model.
    student: what was made of it.
    images: calibration images of the student's sensors, as of
      `pruned.calibration`: f32[N, H, W, C] each.
    steps: of AdamW, with a cosine to zero.
    learning_rate: the peak.
    seed: of the order of the images.
  """
  images = {s: x for s, x in images.items() if s in student.model.spec.sensors}
  count = min(len(x) for x in images.values())

  def loss(params, seen, batch, key):
    del key
    want = teacher.model.apply(seen['teacher'], batch, mode='eval').features
    have = student.model.apply(params, batch, mode='eval').features
    errors = {s: _error(have[s], want[s]) for s in batch}
    return sum(errors.values()) / len(errors), {'errors': errors}

  tx = optim.make(
    optim.OptimSpec(
      learning_rate=learning_rate,
      total_steps=steps,
      decay_rules=[('.*', False)],
    ),
    student.model.abstract,
  )
  step = steps_lib.jit_step(steps_lib.make_train_step(loss, tx))
  # The step consumes its state: both models stay whole.
  params, kept = jax.tree.map(jnp.array, (student.params, teacher.params))
  state = steps_lib.init_state(params, {'teacher': kept}, tx)
  draw, losses = np.random.default_rng(seed), []
  for _ in progress.bar(range(steps), what='recovery'):
    rows = draw.choice(count, min(_BATCH, count), replace=False)
    batch = {s: x[rows] for s, x in images.items()}
    state, metrics = step(state, batch, rng.key_for(seed))
    losses.append(float(metrics['loss']))
  record = {
    'operation': 'recover',
    'steps': steps,
    'learning_rate': learning_rate,
    'first_loss': losses[0],
    'last_loss': losses[-1],
  }
  return Recovered(state['params'], record)


def _error(have: jax.Array, want: jax.Array) -> jax.Array:
  want = jax.lax.stop_gradient(want.astype(jnp.float32))
  return jnp.square(have.astype(jnp.float32) - want).mean() / (
    want.var() + 1e-6
  )
