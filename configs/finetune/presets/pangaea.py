"""PANGAEA: a frozen encoder under UPerNet, or under a linear classifier.

`--config configs/finetune/presets/pangaea.py:TASK`, TASK one of segmentation,
change (Siamese, by the difference), regression, classification, multilabel.

pangaea-bench: configs/train.yaml, configs/task/{segmentation,
linear_classification}.yaml, pangaea/decoders/upernet.py, engine/evaluator.py.
AdamW 1e-4 with decay 0.05, x0.1 at 60 and 90 % of 80 epochs (50 for classes),
batch 8, seed 234, float32, dropout 0.1, random crops alone, pixels normalised
by the data set; mIoU counts a class that is absent as 0. `tiles` covers an
image by windows of the encoder's size, as its sliding window; it averages no
overlaps. UPerNet rescales a ViT's maps by 4, 2, 1 and 0.5: models of stages
give theirs as they are. L-TAE over dates is not here.
"""

from configs import finetune_base
from configs.finetune.presets import base

_ADAMW = {
  'seed': 234,
  'model.encoder': 'frozen',
  'data.normalisation': 'dataset',
  'data.batch_size': 8,
  'optim.learning_rate': 1e-4,
  'optim.weight_decay': 0.05,
  'optim.decay_rules': base.ALL_DECAY,
  'optim.shape': 'multistep',
  'optim.milestones': (0.6, 0.9),
}
_UPERNET = {
  'task.head': 'upernet',
  'task.channels': 512,
  'task.dropout': 0.1,
  'data.window.form': 'scale',
  'data.window.scale': (1.0, 1.0),
  'evaluation.fit': 'tiles',
  'train.total_epochs': 80.0,
}
_LINEAR = {'task.head': 'linear', 'train.total_epochs': 50.0}
_TASKS = {
  'segmentation': ('segmentation', 'cross_entropy', 'miou_absent_zero'),
  'change': ('change', 'cross_entropy', 'miou_absent_zero'),
  'regression': ('map', 'mse', 'rmse'),
  'classification': ('classes', 'cross_entropy', 'accuracy'),
  'multilabel': ('labels', 'soft_margin', 'micro_f1'),
}
_TARGETS = {'segmentation': 'mask', 'change': 'change', 'regression': 'height'}


def get_config(task: str = 'segmentation'):
  kind, loss, metric = base.choose(task, _TASKS)
  c = finetune_base.get_config()
  c.name = 'PANGAEA'
  c.data.target = _TARGETS.get(task, 'label')
  if task == 'change':
    c.data.pair = 'after'
  if task in _TARGETS:
    c.task.levels = base.PYRAMID
    c.task.outputs = 1 if task == 'regression' else 2  # The data set's.
  head = _UPERNET if task in _TARGETS else _LINEAR
  rules = {'task.kind': kind, 'task.loss': loss, 'evaluation.metric': metric}
  return base.state(c, f'pangaea_{task}', 1, _ADAMW | head | rules)
