"""DynamicEarthNet, Sentinel-2, Table 4: ten bands 256; mIoU 35.2/47.5.

Batch 8 and 6 classes (without snow) are DEFAULT.
"""

from configs.finetune.skysense_v2 import base


def get_config():
  c = base.dense(
    base.get_config('dyna_s2', 'sentinel2_skysense', 256),
    classes=6,
    metric='miou',
  )
  c.data.batch_size = 8
  c.data.window.form = 'scale'  # A plain crop.
  return c
