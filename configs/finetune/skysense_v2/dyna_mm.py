"""DynamicEarthNet, Table 8: Planet, Sentinel-2 and -1, 1024 each; mIoU 48.9.

All three lie on Planet's pixels, as the benchmark gives them. How grids of one
pixel size and three strides meet is NOT FOUND; DEFAULT: Sentinel-2 and -1 halve
their grids where Planet does, so that all have stride 32. UPerNet reads the
stages of Planet and, for the last, the fused features (DEFAULT); one date of
each, 6 classes (without snow) and no layer-wise decay (Table 8 prints none) are
DEFAULT. A checkpoint whose HR tokenizer has three bands starts this one anew.
"""

from configs.finetune.skysense_v2 import base


def get_config():
  c = base.several(
    'dyna_mm', ('planetscope', 'sentinel2_skysense', 'sentinel1_grd'), 1024
  )
  c.model.tokenizers.planetscope = 'opt'
  c.model.fresh = ('embed/planetscope/kernel',)
  for sensor in ('sentinel2_skysense', 'sentinel1_grd'):
    c.model.reduces[sensor] = (True, True, True)
  levels = tuple(f'planetscope/{stage}' for stage in base.PYRAMID[:-1])
  c.task.update(
    kind='segmentation', head='upernet', levels=(*levels, 'fused'), outputs=6
  )
  c.data.update(target='mask', batch_size=8, normalisation='dataset')
  c.evaluation.update(metric='miou', fit='tiles')
  c.optim.update(
    learning_rate=6e-5,
    weight_decay=0.01,
    shape='linear',
    warmup_steps=150,
    warmup_learning_rate=1e-6,
  )
  c.train.total_steps = 6_000
  c.train.evaluation_percent = 5.0
  return c
