"""fMoW-Sentinel, Table 7: ten bands 96, linear head; top-1 66.65.

62 classes. "Warm-up 5 from 0.2" is read as 5 epochs from 0.2 of the rate.
Batch 64 and the area of the crop are DEFAULT.
"""

from configs.finetune.skysense_v2 import base


def get_config():
  c = base.get_config('fmow_s2', 'sentinel2_skysense', 96)
  c.task.outputs = 62
  c.data.batch_size = 64
  c.data.window.update(form='area', area=(0.2, 1.0))
  c.mixing.update(mixup=0.8, mixup_probability=1.0)
  c.optim.update(
    learning_rate=8e-4,
    weight_decay=0.05,
    warmup_percent=100 * 5 / 30,  # 5 epochs of 30.
    warmup_learning_rate=0.2 * 8e-4,
  )
  c.train.total_epochs = 30.0
  return c
