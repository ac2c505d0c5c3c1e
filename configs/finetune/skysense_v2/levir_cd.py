"""LEVIR-CD, Table 6: HR RGB 256, BIT, cross-entropy; F1 94.83.

"LambdaLR" over 200 epochs is BIT's public schedule, a line to 0 (DEFAULT).
BIT's map, `stage_2`, and batch 16 are DEFAULT.
"""

from configs.finetune.skysense_v2 import base


def get_config():
  c = base.get_config('levir_cd', 'opt', 256)
  c.task.update(kind='change', head='bit', levels=('stage_2',), outputs=2)
  c.data.update(target='change', pair='after', batch_size=16)
  c.data.window.form = 'scale'  # A plain crop.
  c.evaluation.update(metric='f1', fit='tiles')
  c.optim.update(learning_rate=6e-5, weight_decay=0.01, shape='linear')
  c.train.total_epochs = 200.0
  return c
