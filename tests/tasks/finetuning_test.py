"""Fine-tuning over a stub encoder: heads, targets, freezing, statistics."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.tasks import contract
from rsfm_jax.tasks import finetuning
from rsfm_jax.tasks import losses
from rsfm_jax.tasks import mixing
from rsfm_jax.tasks import spec as spec_lib

SIZE, BATCH = 8, 4
TARGETS = {
  'classes': lambda draw: draw.integers(3, size=BATCH),
  'labels': lambda draw: draw.integers(2, size=(BATCH, 3)),
  'segmentation': lambda draw: draw.integers(3, size=(BATCH, SIZE, SIZE)),
  'change': lambda draw: draw.integers(2, size=(BATCH, SIZE, SIZE)),
  'semantic_change': lambda draw: draw.integers(3, size=(BATCH, 2, SIZE, SIZE)),
  'scalar': lambda draw: draw.normal(size=BATCH).astype(np.float32),
  'map': lambda draw: draw.normal(size=(BATCH, SIZE, SIZE)).astype(np.float32),
  'boxes': lambda draw: objects(draw, turned=False),
  'oriented_boxes': lambda draw: objects(draw, turned=True),
}
DETECTOR = {
  'anchor_scale': 1.5,
  'pre_nms': 8,
  'proposals': 6,
  'roi_size': 2,
  'hidden': 4,
  'rpn_samples': 8,
  'roi_samples': 8,
  'candidates': 8,
  'detections': 4,
}
CASES = [
  (kind, head) for kind, heads in spec_lib.HEADS.items() for head in heads
]


def objects(draw, *, turned):
  """Two boxes in every image and a row of padding."""
  out = np.zeros((BATCH, 3, 6), np.float32)
  out[..., :2] = draw.uniform(2, SIZE - 2, (BATCH, 3, 2))
  out[..., 2:4] = (4, 2)
  out[..., 4] = draw.uniform(-1, 1, (BATCH, 3)) if turned else 0
  out[..., 5] = draw.integers(3, size=(BATCH, 3))
  out[:, 2, 5] = -1
  return out


def encode(params, entries, *, mode, key=None, prototypes=None):
  """Means of patches of 2 and 4 pixels, times a matrix."""
  del mode, key, prototypes
  ((_, entry),) = entries.items()
  image = entry['image']
  flat = image.reshape(-1, *image.shape[-3:])
  maps = {}
  for i, patch in enumerate((2, 4)):
    side = SIZE // patch
    means = flat.reshape(-1, side, patch, side, patch, 3).mean((2, 4))
    y = means @ params['kernel']
    maps[f'stage_{i}'] = y.reshape(*image.shape[:-3], *y.shape[1:])
  maps['final'] = maps['stage_1']
  return contract.Features(maps, image.shape[-3:-1])


def task_spec(kind, head, changes=None):
  options = {
    'kind': kind,
    'head': head,
    'outputs': {'change': 2, 'scalar': 1, 'map': 1}.get(kind, 3),
    'loss': {'labels': 'soft_margin', 'scalar': 'mse', 'map': 'mae'}.get(
      kind, 'cross_entropy'
    ),
    'levels': ('stage_0', 'stage_1')
    if head in spec_lib.PYRAMIDS
    else ('final',),
    'channels': 4,
    'unet_channels': (4, 4),
    'dropout': 0.0,
    'detector': DETECTOR,
  }
  return spec_lib.TaskSpec(**(options | (changes or {})))


def case(kind, head, changes=None, **options):
  """(objective, params, extra, batch)."""
  dates = (2,) if 'change' in kind else ()
  image = jax.ShapeDtypeStruct((BATCH, *dates, SIZE, SIZE, 3), jnp.float32)
  encoder = {'kernel': jax.random.normal(jax.random.key(5), (3, 4))}
  maps = jax.eval_shape(
    lambda x: encode(encoder, {'opt': {'image': x}}, mode='eval').maps, image
  )
  objective = finetuning.FineTuning(
    finetuning.FineTuningSpec(task=task_spec(kind, head, changes), **options),
    encode,
    contract.Features(maps, (SIZE, SIZE)),
  )
  heads, extra = jax.jit(objective.init)(jax.random.key(0))
  draw = np.random.default_rng(0)
  batch = {
    'opt': {'image': jnp.asarray(draw.normal(size=image.shape), jnp.float32)},
    'place': {'target': jnp.asarray(TARGETS[kind](draw))},
  }
  return objective, encoder | {build.HEADS: heads}, extra, batch


def value(objective, params, extra, batch, seed=1):
  return objective.loss(params, extra, batch, jax.random.key(seed))


def compiled(objective):
  """`value` of one objective as one program."""
  return jax.jit(functools.partial(value, objective))


@pytest.mark.parametrize('kind, head', CASES)
def test_every_head_learns_its_target_a_little(kind, head):
  objective, params, extra, batch = case(kind, head)
  step = jax.jit(
    jax.value_and_grad(
      lambda p: value(objective, p, extra, batch), has_aux=True
    )
  )
  (before, aux), grads = step(params)
  for name, grad in trees.flatten(grads).items():
    # What both dates gain alike leaves no difference.
    assert grad.any() or name == f'{build.HEADS}/decoder/7/ffn/b_out', name
  norm = sum(float((g**2).sum()) for g in jax.tree.leaves(grads))
  rate = 1e-2 / norm**0.5
  (after, _), _ = step(jax.tree.map(lambda p, g: p - rate * g, params, grads))
  assert after < before
  plain = ('linear', 'faster_rcnn', 'oriented_rcnn')
  assert ('_statistics' in aux) == (head not in plain)
  found = jax.jit(objective.predict)(params, extra, batch)
  if kind in spec_lib.BOXES:
    assert found.shape == (BATCH, 4, 7) and np.isfinite(found).all()
  elif kind in spec_lib.DENSE:
    dates = (2,) if kind == 'semantic_change' else ()
    assert found.shape == (BATCH, *dates, SIZE, SIZE)
  else:
    assert len(found) == BATCH


def test_a_frozen_encoder_gets_no_gradient_and_its_head_does():
  objective, params, extra, batch = case('classes', 'linear', encoder='frozen')
  loss = lambda p: value(objective, p, extra, batch)[0]
  grads = jax.jit(jax.grad(loss))(params)
  assert not grads['kernel'].any()
  assert all(g.any() for g in jax.tree.leaves(grads[build.HEADS]))


def test_statistics_move_after_an_update_only():
  objective, params, extra, batch = case('segmentation', 'fcn')
  _, aux = compiled(objective)(params, extra, batch)
  new = objective.after_update(params, extra, aux, 0)
  old = trees.flatten(extra['statistics'])
  moved = trees.flatten(new['statistics'])
  assert old.keys() == moved.keys()
  assert any((old[n] != moved[n]).any() for n in old)
  run = functools.partial(objective.outputs, mode='eval')
  one = jax.jit(run)(params, extra, batch)[1]
  kept = trees.flatten(one)
  assert all((old[n] == kept[n]).all() for n in old)


def test_an_unlabelled_pixel_changes_neither_loss_nor_gradient():
  logits = jax.random.normal(jax.random.key(0), (2, 4, 3))
  labels = jnp.array([[0, 1, 2, 255], [255, 1, 0, 2]])
  loss = jax.value_and_grad(lambda x: losses.cross_entropy(x, labels))
  plain, slope = loss(logits)
  worse = logits.at[0, 3].set(50.0).at[1, 0].set(-50.0)
  other, other_slope = loss(worse)
  assert plain == other
  counts = labels != 255
  assert (slope[counts] == other_slope[counts]).all()
  assert not other_slope[~counts].any()


def test_a_nan_target_is_unlabelled_and_harms_no_gradient():
  values, targets = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, jnp.nan, 5.0])
  found, slope = jax.value_and_grad(
    lambda v: losses.error(v, targets, order=2)
  )(values)
  assert found == (1 + 4) / 2
  np.testing.assert_allclose(slope, [1.0, 0.0, -2.0])
  assert losses.error(values, jnp.full(3, jnp.nan), order=1) == 0


def test_a_batch_without_any_label_has_loss_zero():
  assert losses.cross_entropy(jnp.ones((2, 3)), jnp.full(2, 255)) == 0


def test_mixing_needs_no_other_head():
  objective, params, extra, batch = case(
    'classes', 'linear', mixing=mixing.MixingSpec(erasing=0.5, mixup=0.8)
  )
  run = compiled(objective)
  one, again, other = (run(params, extra, batch, seed)[0] for seed in (1, 1, 2))
  assert one == again and one != other


def test_one_score_of_change_counts_every_code_above_zero_as_change():
  objective, params, extra, batch = case(
    'change', 'unet', {'loss': 'soft_margin', 'outputs': 1}
  )
  run = compiled(objective)
  plain, _ = run(params, extra, batch)
  batch['place']['target'] = 3 * batch['place']['target']
  assert run(params, extra, batch)[0] == plain
  found = jax.jit(objective.predict)(params, extra, batch)
  assert set(np.unique(found)) <= {0, 1}


@pytest.mark.parametrize(
  'kind, head, changes',
  [
    ('segmentation', 'linear', {}),
    ('change', 'linear', {}),
    ('change', 'linear', {'loss': 'soft_margin', 'outputs': 1}),
    ('map', 'linear', {}),
  ],
)
def test_what_windows_are_averaged_by_agrees_with_predictions(
  kind, head, changes
):
  objective, params, extra, batch = case(kind, head, changes)
  run = lambda *args: (objective.averaged(*args), objective.predict(*args))
  found, want = jax.jit(run)(params, extra, batch)
  if kind == 'map':
    np.testing.assert_array_equal(found[..., 0], want)
    return
  np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
  np.testing.assert_array_equal(found.argmax(-1), want)


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'levels': ('stage_9',)}, 'task.levels'),
    ({'levels': ('stage_1', 'stage_0'), 'head': 'upernet'}, 'finest first'),
    ({'head': 'unet', 'levels': ('stage_0', 'stage_1'), 'unet_channels': (4,)},
     'task.unet_channels'),
  ],
)  # fmt: skip
def test_maps_that_do_not_fit_a_head_are_named(changes, words):
  with pytest.raises(ValueError, match=words):
    case('segmentation', 'linear', changes)


@pytest.mark.parametrize('kind', ['change', 'semantic_change'])
def test_change_needs_two_dates(kind):
  objective, *_ = case('segmentation', 'linear')
  spec = finetuning.FineTuningSpec(task=task_spec(kind, 'linear'))
  with pytest.raises(ValueError, match='data.pair=after'):
    dataclasses.replace(objective, spec=spec).init(jax.random.key(0))


def test_semantic_change_segments_each_date_by_itself():
  objective, params, extra, batch = case('semantic_change', 'linear')
  found = objective.predict(params, extra, batch)
  assert found.shape == (BATCH, 2, SIZE, SIZE)
  alone = case('segmentation', 'linear')[0]
  losses_ = []
  for date in range(2):
    one = {
      'opt': {'image': batch['opt']['image'][:, date]},
      'place': {'target': batch['place']['target'][:, date]},
    }
    losses_.append(value(alone, params, extra, one)[0])
    np.testing.assert_array_equal(
      found[:, date], alone.predict(params, extra, one)
    )
  whole, _ = value(objective, params, extra, batch)
  np.testing.assert_allclose(whole, np.mean(losses_), rtol=1e-6)


def test_frozen_prototypes_are_looked_up_by_region():
  objective, params, extra, batch = case('classes', 'linear')
  known = jax.ShapeDtypeStruct((3, 2, 4), jnp.float32)
  asked = []

  def spy(*args, prototypes=None, **options):
    asked.append(prototypes)
    return encode(*args, **options)

  objective = dataclasses.replace(objective, encode=spy, prototypes=known)
  _, extra = objective.init(jax.random.key(0))
  assert not extra['prototypes'].any()
  table = jnp.arange(24.0).reshape(3, 2, 4)
  batch['place']['region'] = jnp.array([2, 0, -1, 3])
  state = extra | {'prototypes': table}
  _, aux = value(objective, params, state, batch)
  want = jnp.stack([table[2], table[0], 0 * table[0], 0 * table[0]])
  np.testing.assert_array_equal(asked[-1], want)
  kept = objective.after_update(params, state, aux, 0)['prototypes']
  assert kept is table
