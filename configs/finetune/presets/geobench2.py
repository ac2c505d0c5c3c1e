"""GEO-Bench 2's leaderboard: all of the model tuned, a U-Net for pixels.

`--config configs/finetune/presets/geobench2.py:TASK`, TASK one of
classification, multilabel, segmentation, regression. An entry needs five seeds
(`--config.seed`) and the rate of a search of 4 to 16 trials
(`--config.optim.learning_rate`); `--config.model.encoder=frozen` is its other
track and stands in the rows as a change.

GEO-Bench-2-Leaderboard: README.md, utils/constants.py, results/. Decay 0.01,
data set z-scores. Its metrics are those of TerraTorch: overall accuracy, macro
F1, Jaccard index without absent classes; rmse is in units of the target, whose
leaderboard value is 1 - 0.25380 rmse for z-scored BioMassters. NOT FOUND, so
DEFAULT: 50 epochs, batch 16, flips, cosine, a linear head for scenes. The best
state on validation is kept; nothing stops early (patience 10 there).
"""

from configs import finetune_base
from configs.finetune.presets import base

_RULES = {
  'model.encoder': 'trained',
  'data.normalisation': 'dataset',
  'optim.weight_decay': 0.01,
}
_UNET = {'task.head': 'unet', 'evaluation.fit': 'tiles'}
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
  c.name = 'GEO-Bench 2'
  c.data.target = _TARGETS.get(task, 'label')
  c.data.batch_size = 16
  c.data.window.symmetry = 'flip'
  c.train.total_epochs = 50.0
  rules = {'task.kind': kind, 'task.loss': loss, 'evaluation.metric': metric}
  if task in _TARGETS:
    c.task.levels = base.PYRAMID
    c.task.outputs = 1 if task == 'regression' else 2  # The data set's.
    c.data.window.form = 'scale'
    rules |= _UNET
  return base.state(c, f'geobench2_ft_{task}', 1, _RULES | rules)
