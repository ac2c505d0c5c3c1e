"""DynamicEarthNet, Sentinel-2, Table 6: change of land cover; SCS 16.0/20.7.

UPerNet and cross-entropy on the difference of two dates. The paper's semantic
change segmentation predicts land cover of both dates; this config learns which
pixels change, and SCS is not measured (known deviation). Batch 8 (DEFAULT).
"""

from configs.finetune.skysense_v2 import base


def get_config():
  c = base.get_config('dyna_s2', 'sentinel2_skysense', 256)
  c.task.update(kind='change', head='upernet', levels=base.PYRAMID, outputs=2)
  c.data.update(target='change', pair='after', batch_size=8)
  c.data.window.form = 'scale'  # A plain crop.
  c.evaluation.update(metric='f1', fit='tiles')
  c.optim.update(
    learning_rate=1e-4,
    weight_decay=0.05,
    layer_decay=0.8,
    shape='poly',
    warmup_steps=1500,
    warmup_learning_rate=1e-6,
  )
  c.train.total_steps = 80_000
  return c
