"""DynamicEarthNet, Sentinel-2, Table 6: semantic change; SCS 16.0/20.7.

UPerNet and cross-entropy: one head segments the land cover of both dates, and
SCS compares where and to what it changes. How the paper trains for it is NOT
FOUND; DEFAULT: a sample is a pair of consecutive months with the arrays `mask`
and `mask_after`, and both share the loss. Batch 8 and 6 classes (without snow)
are DEFAULT.
"""

from configs.finetune.skysense_v2 import base


def get_config():
  c = base.dense(
    base.get_config('dyna_s2_change', 'sentinel2_skysense', 256),
    classes=6,
    metric='scs',
  )
  c.task.kind = 'semantic_change'
  c.data.update(pair='after', batch_size=8)
  c.data.window.form = 'scale'  # A plain crop.
  c.optim.weight_decay = 0.05
  return c
