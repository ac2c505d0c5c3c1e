"""A task's head behind an exported encoder, against the trained objective."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.export import graph
from rsfm_jax.export import heads
from rsfm_jax.export import parity
from rsfm_jax.export import stablehlo
from rsfm_jax.models import build
from rsfm_jax.tasks import contract
from rsfm_jax.tasks import encoders
from rsfm_jax.tasks import finetuning
from rsfm_jax.tasks import spec as task_spec

# float32: a fused program sums in another order.
SAME = 2e-5
NAMES = ('water', 'wood', 'town')
PYRAMID = ('stage_0', 'stage_1')


def task_of(kind, head='linear', **changes):
  number = kind in ('scalar', 'map')
  loss = {'labels': 'soft_margin'}.get(kind, 'cross_entropy')
  return task_spec.TaskSpec(
    kind=kind,
    head=head,
    outputs=1 if number else len(NAMES),
    loss='mse' if number else loss,
    **changes,
  )


def tuned(made, params):
  """The objective as it was trained, and parameters of encoder and head."""
  encode, size = encoders.single(made.spec), (made.size, made.size)
  image = jnp.zeros((1, *size, len(made.sensor.bands)))
  maps = jax.eval_shape(
    lambda p, x: encode(p, {'opt': {'image': x}}, mode='eval').maps,
    params,
    image,
  )
  objective = finetuning.FineTuning(
    finetuning.FineTuningSpec(task=made.task),
    encode,
    contract.Features(maps, size),
  )
  head, extra = jax.eval_shape(objective.init, jax.random.key(0))
  rng = np.random.default_rng(1)
  # Positive, for the variances of batch norms.
  noise = lambda x: jnp.asarray(rng.uniform(0.1, 0.5, x.shape), x.dtype)
  head, extra = jax.tree.map(noise, (head, extra))
  return objective, params | {build.HEADS: head}, extra


@pytest.mark.parametrize(
  'task, shape',
  [
    (task_of('classes'), (3,)),
    (task_of('labels'), (3,)),
    (task_of('scalar'), (1,)),
    (task_of('map'), (8, 8, 1)),
    (task_of('segmentation', 'upernet', levels=PYRAMID, channels=8), (8, 8, 3)),
  ],
  ids=lambda value: getattr(value, 'kind', ''),
)
def test_it_says_what_the_trained_head_says(make_graph, params, task, shape):
  made = make_graph('opt', task=task, classes=NAMES)
  objective, trained, extra = tuned(made, params)
  assert (task.head == 'upernet') == bool(extra)  # Statistics of batch norms.
  images = parity.images(made, 2)
  batch = {'opt': {'image': made.normalised(images['pixels'])}}
  whole = heads.joined(trained, extra)
  got = jax.jit(functools.partial(made))(whole, **images)
  scores, _ = jax.jit(functools.partial(objective.outputs, mode='eval'))(
    trained, extra, batch
  )
  want = {
    'classes': lambda: jax.nn.softmax(scores, -1),
    'labels': lambda: jax.nn.sigmoid(scores),
    'scalar': lambda: scores,
  }.get(task.kind, lambda: objective.task.averaged(scores, size=(8, 8)))
  assert got[heads.PREDICTION].shape == (2, *shape)
  np.testing.assert_allclose(
    got[heads.PREDICTION], want(), rtol=SAME, atol=SAME
  )
  plain = make_graph('opt')
  features = jax.jit(functools.partial(plain))(params, **images)
  np.testing.assert_allclose(got['map'], features['map'], atol=SAME)


def test_it_is_in_the_artefact_and_in_its_json(make_graph, params):
  pytest.importorskip('flatbuffers')
  made = make_graph('opt', task=task_of('segmentation'), classes=NAMES)
  _, trained, extra = tuned(made, params)
  assert graph.Graph.from_json(json.loads(json.dumps(made.to_json()))) == made
  whole = heads.joined(trained, extra)
  assert made.outputs(whole)[heads.PREDICTION] == ('b', 8, 8, 3)
  call = stablehlo.load(stablehlo.serialised(made, whole, platforms=('cpu',)))
  images = parity.images(made, 3)
  want = parity.reference(made, whole, [images])
  got = {n: np.asarray(x) for n, x in call(*images.values()).items()}
  assert parity.worst(parity.errors(want, [got])) < SAME


def test_its_file_holds_it_whole(make_graph, params, tmp_path):
  task = task_of('segmentation', 'upernet', levels=PYRAMID, channels=8)
  made = make_graph('opt', task=task, classes=NAMES)
  _, trained, extra = tuned(made, params)
  whole = heads.joined(trained, extra)
  encoder, head = heads.parts(whole)
  heads.save(tmp_path / 'head.safetensors', whole, made)
  again = heads.load(tmp_path / 'head.safetensors')
  assert trees.flatten(again).keys() == trees.flatten(head).keys()
  jax.tree.map(np.testing.assert_array_equal, again, jax.device_get(head))
  jax.tree.map(np.testing.assert_array_equal, encoder, params)


@pytest.mark.parametrize('kind', ['change', 'boxes'])
def test_heads_of_several_images_and_of_boxes_are_refused(make_graph, kind):
  head = {'change': 'linear', 'boxes': 'faster_rcnn'}[kind]
  levels = PYRAMID if kind == 'boxes' else ('final',)
  task = task_of(kind, head, levels=levels)
  with pytest.raises(ValueError, match=f"exported head='{kind}'"):
    make_graph('opt', task=task)
