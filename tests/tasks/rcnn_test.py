"""Faster and Oriented R-CNN find bright rectangles after a minute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.evaluate import outcomes
from rsfm_jax.models import build
from rsfm_jax.tasks import contract
from rsfm_jax.tasks import finetuning
from rsfm_jax.tasks import spec as spec_lib

SIZE, COUNT, OBJECTS, STEPS = 32, 16, 3, 150
DETECTOR = {
  'anchor_scale': 4.0,
  'pre_nms': 48,
  'proposals': 24,
  'rpn_samples': 48,
  'roi_samples': 24,
  'roi_size': 4,
  'hidden': 32,
  'boxes': 'shared',
  'candidates': 32,
  'nms_iou': 0.3,
  'detections': 12,
}


def corner_distance(boxes, x, y):
  """Share of the half sides that (x, y) is away from the centre, [N, H, W]."""
  cx, cy, w, h, angle = (boxes[:, i, None, None] for i in range(5))
  cos, sin = np.cos(angle), np.sin(angle)
  along = (x - cx) * cos + (y - cy) * sin
  across = (y - cy) * cos - (x - cx) * sin
  return np.maximum(np.abs(along) / w, np.abs(across) / h) * 2


def scenes(oriented, seed):
  """Images [N, S, S, 3] with rectangles in two colours, and their boxes."""
  draw = np.random.default_rng(seed)
  target = np.zeros((COUNT, OBJECTS, 6), np.float32)
  at = np.arange(SIZE) + 0.5
  image = draw.normal(0, 0.1, (COUNT, SIZE, SIZE, 3)).astype(np.float32)
  corners = np.array([[9, 9], [23, 10], [12, 23]])
  for k in range(OBJECTS):
    box = target[:, k]
    box[:, :2] = corners[k] + draw.uniform(-2, 2, (COUNT, 2))
    box[:, 2] = draw.uniform(8, 12, COUNT)
    box[:, 3] = draw.uniform(4, 7, COUNT)
    box[:, 4] = draw.uniform(-1.5, 1.5, COUNT) if oriented else 0
    box[:, 5] = draw.integers(2, size=COUNT)
    inside = corner_distance(box, at[None, None], at[None, :, None]) <= 1
    for label in (0, 1):
      image[..., label] += inside * (box[:, 5] == label)[:, None, None]
  return image, target


def encode(params, entries, *, mode, key=None, prototypes=None):
  """Convolutions of stride 2, 2 and 2; a map after the first two and last."""
  del mode, key, prototypes
  ((_, entry),) = entries.items()
  x = entry['image']
  maps = {}
  for name, kernel in params['convs'].items():
    x = jax.nn.relu(
      jax.lax.conv_general_dilated(
        x, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
      )
    )
    maps[name] = x
  return contract.Features(maps, (SIZE, SIZE))


def encoder(key):
  widths = (3, 16, 24, 32)
  return {
    f'stage_{i}': jax.random.normal(jax.random.fold_in(key, i), (3, 3, a, b))
    * (2 / (9 * a)) ** 0.5
    for i, (a, b) in enumerate(zip(widths, widths[1:]))
  }


def detector(oriented):
  """(objective, parameters)."""
  params = {'convs': encoder(jax.random.key(3))}
  image = jax.ShapeDtypeStruct((COUNT, SIZE, SIZE, 3), jnp.float32)
  maps = jax.eval_shape(
    lambda x: dict(encode(params, {'opt': {'image': x}}, mode='eval').maps),
    image,
  )
  task = spec_lib.TaskSpec(
    kind='oriented_boxes' if oriented else 'boxes',
    head='oriented_rcnn' if oriented else 'faster_rcnn',
    outputs=2,
    levels=tuple(maps),
    channels=16,
    detector=DETECTOR,
  )
  objective = finetuning.FineTuning(
    finetuning.FineTuningSpec(task=task),
    encode,
    contract.Features(maps, (SIZE, SIZE)),
  )
  heads, _ = jax.jit(objective.init)(jax.random.key(0))
  return objective, params | {build.HEADS: heads}


def train(objective, params, images, target):
  """Adam for STEPS steps on all of the images: (parameters, losses)."""

  @jax.jit
  def step(state, number):
    params, mean, square = state
    batch = {'opt': {'image': images}, 'place': {'target': target}}
    key = jax.random.fold_in(jax.random.key(1), number)
    (loss, _), grads = jax.value_and_grad(
      lambda p: objective.loss(p, {}, batch, key), has_aux=True
    )(params)
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, grads)
    square = jax.tree.map(lambda v, g: 0.98 * v + 0.02 * g**2, square, grads)
    rate = 4e-3 * jnp.minimum(1, (number + 1) / 20)
    move = lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-6)
    return (jax.tree.map(move, params, mean, square), mean, square), loss

  zeros = jax.tree.map(jnp.zeros_like, params)
  state, losses = (params, zeros, zeros), []
  for number in range(STEPS):  # A scan's convolutions are slow on CPUs.
    state, loss = step(state, number)
    losses.append(float(loss))
  return state[0], losses


@pytest.mark.slow
@pytest.mark.parametrize('oriented', [False, True])
def test_a_detector_finds_what_it_was_shown_elsewhere(oriented):
  objective, params = detector(oriented)
  trained, losses = train(objective, params, *scenes(oriented, 0))
  assert losses[-1] < 0.5 * losses[0]
  images, target = scenes(oriented, 1)
  predict = jax.jit(
    lambda p, x: objective.predict(p, {}, {'opt': {'image': x}})
  )
  measured = {}
  for name, weights in (('before', params), ('after', trained)):
    found = np.asarray(predict(weights, images))
    assert found.shape == (COUNT, 12, 7)
    score = found[..., 5]
    assert (np.diff(score, axis=1) <= 0).all()
    kind = objective.spec.task.kind
    outcome = outcomes.of_task(kind, found, target, outputs=2)
    measured[name] = outcome.measure()['map50']
  assert measured['before'] < 0.1 < 0.6 < measured['after']
