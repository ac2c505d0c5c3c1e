"""PASTIS-MM, Table 8: GEP RGB 4096, Sentinel-2 and -1 series 128; OA 86.7.

86.7 is of Sentinel-2 and GEP (Table 3), 85.6 of both series; leave sensors out
by `--config.data.sensors`. Official five-fold cross-validation: give the fold
as `pastis_mm.py:1` to `:5`; the store's splits are its folds, `fold_1` to
`fold_5`, of which three train, one validates and one tests. 19 classes with the
background, void is 255; at most 61 dates of Sentinel-2 and 71 of Sentinel-1
("all dates"), and no layer-wise decay (Table 8 prints none) are DEFAULT.
"""

from configs.finetune.skysense_v2 import base

FOLDS = 5


def get_config(fold: str = '1'):
  c = base.several(
    'pastis_mm', ('opt', 'sentinel2_skysense', 'sentinel1_grd'), 4096
  )
  c.task.update(kind='segmentation', head='fcn', outputs=19)
  c.data.update(target='mask', target_size=128, batch_size=8)
  for sensor, dates in (('sentinel2_skysense', 61), ('sentinel1_grd', 71)):
    c.data.dates[sensor] = dates
    c.data.factors[sensor] = 32
  names = [f'fold_{(int(fold) - 1 + i) % FOLDS + 1}' for i in range(FOLDS)]
  del c.data.train_split  # A name where it is one split.
  c.data.train_split = tuple(names[:3])
  c.data.update(val_split=names[3], test_split=names[4])
  c.evaluation.update(metric='accuracy', fit='tiles')
  c.optim.update(
    learning_rate=6e-5,
    weight_decay=0.01,
    shape='linear',
    warmup_steps=1500,
    warmup_learning_rate=1e-6,
  )
  c.train.total_steps = 20_000
  c.train.evaluation_percent = 5.0
  return c
