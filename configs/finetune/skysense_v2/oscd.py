"""OSCD, Table 6: Sentinel-2 96, Siamese difference U-Net, BCE; F1 65.29.

Exponential over 100 epochs: gamma 0.95 per epoch (NOT FOUND, DEFAULT). Batch 32
(DEFAULT). Its L1C images lack none of the ten bands.
"""

from configs.finetune.skysense_v2 import base


def get_config():
  c = base.get_config('oscd', 'sentinel2_skysense', 96)
  c.task.update(
    kind='change',
    head='unet',
    loss='soft_margin',
    levels=base.PYRAMID,
    outputs=1,
  )
  c.data.update(target='change', pair='after', batch_size=32)
  c.data.window.form = 'scale'  # Tiles are larger than 96.
  c.evaluation.update(metric='f1', fit='tiles')
  c.optim.update(
    learning_rate=6e-4,
    weight_decay=1e-4,
    shape='exponential',
    gamma=0.95,
    gamma_percent=1.0,  # An epoch of 100.
  )
  c.train.total_epochs = 100.0
  return c
