"""Fine-tuning: what the classes of a target are called, and how many."""

from typing import Any, NamedTuple

import pytest

from configs import finetune_base
from rsfm_jax.cli import compose
from rsfm_jax.cli.systems import finetune
from rsfm_jax.cli.systems import found as found_lib

NAMES = ('water', 'wood', 'town')


class Store(NamedTuple):
  """What is asked of a store."""

  classes: list[str] | None
  labels: list[Any]

  def column(self, name):
    assert name == 'label'
    return self.labels


LABELLED = Store(list(NAMES), [0, None, 2])
MASKED = Store(list(NAMES), [None, None, None])


def config(kind, outputs=None, **changes):
  c = finetune_base.get_config()
  c.task.update(kind=kind, **changes)
  if outputs is not None:
    c.task.outputs = outputs
  return c


@pytest.mark.parametrize(
  'store, kind, names',
  [
    (LABELLED, 'classes', NAMES),
    (MASKED, 'segmentation', NAMES),
    (MASKED, 'boxes', NAMES),
    (LABELLED, 'segmentation', ()),  # Names of other classes than the mask's.
    (MASKED, 'map', ()),
    (Store(None, [None]), 'segmentation', ()),
  ],
)
def test_names_are_those_of_the_target(store, kind, names):
  assert finetune.class_names(config(kind), store) == names


def test_masks_count_classes_as_labels_do():
  spec = finetune.finetuning_spec(config('segmentation'), MASKED)
  assert spec.task.outputs == 3
  two = Store(['kept', 'changed'], [None])
  change = config('change', head='bit', loss='soft_margin')
  change.evaluation.metric = 'f1'
  assert finetune.finetuning_spec(change, two).task.outputs == 1
  with pytest.raises(ValueError, match='config.task.outputs is None'):
    finetune.finetuning_spec(config('segmentation'), LABELLED)


def test_another_number_of_outputs_has_no_names():
  assert finetune.class_names(config('segmentation', 3), MASKED) == NAMES
  assert finetune.class_names(config('segmentation', 4), MASKED) == ()


def test_they_travel_with_the_checkpoint():
  found = found_lib.Data([], {}, {}, 1, 1, NAMES)
  assert compose.contract_json(found)['classes'] == list(NAMES)
  assert 'classes' not in compose.contract_json(found._replace(classes=()))
