"""OlmoEarth: the whole encoder fine-tuned under a linear head, 50 epochs.

`--config configs/finetune/presets/olmoearth.py:TASK`, TASK one of
classification, multilabel, segmentation, regression. Three runs over the rates
1e-4, 5e-4 and 1e-3 make its sweep: `--config.optim.learning_rate`.

olmoearth_pretrain/evals/finetune/{train,constants}.py: AdamW with torch's decay
0.01, no augmentation, seed 42; a backbone that stands still for the first 20 %
of the epochs, whereupon the rate falls to a tenth. Not here: ReduceLROnPlateau
(x0.2, patience 2, cooldown 10) and the choice of a UNet head. The encoder's
moments grow while it stands still, the harness's begin afterwards. Batches are
a matter of its tasks; 64 is a DEFAULT.
"""

from configs import finetune_base
from configs.finetune.presets import base

_RULES = {
  'seed': 42,
  'task.head': 'linear',
  'data.window.form': 'whole',
  'data.window.symmetry': 'none',
  'optim.weight_decay': 0.01,
  'optim.decay_rules': base.ALL_DECAY,
  'optim.shape': 'multistep',
  'optim.milestones': (0.2,),
  'optim.gamma': 0.1,
  'optim.held': '(?!objective/).*',
  'optim.held_percent': 20.0,
  'train.total_epochs': 50.0,
  'train.evaluation_percent': 2.0,  # Each epoch.
}
_TASKS = {
  'classification': ('classes', 'cross_entropy', 'accuracy'),
  'multilabel': ('labels', 'soft_margin', 'macro_f1'),
  'segmentation': ('segmentation', 'cross_entropy', 'miou'),
  'regression': ('map', 'mse', 'rmse'),
}
_TARGETS = {'segmentation': 'mask', 'regression': 'height'}


def get_config(task: str = 'segmentation'):
  kind, loss, metric = base.choose(task, _TASKS)
  c = finetune_base.get_config()
  c.name = 'OlmoEarth'
  c.optim.learning_rate = 1e-4
  c.data.target = _TARGETS.get(task, 'label')
  if task in _TARGETS:
    c.task.outputs = 1 if task == 'regression' else 2  # The data set's.
  rules = {'task.kind': kind, 'task.loss': loss, 'evaluation.metric': metric}
  return base.state(c, f'olmoearth_ft_{task}', 1, _RULES | rules)
