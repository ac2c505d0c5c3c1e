"""BigEarthNet, Table 8: Sentinel-2 and -1, 128 each; mAP 93.8.

Its patches of 120 pixels are resampled to 128, as in `bigearthnet_s2`. 19
labels and micro mAP, milestones at 60 and 80 of 100 epochs, and no layer-wise
decay (Table 8 prints none) are DEFAULT.
"""

from configs.finetune.skysense_v2 import base


def get_config():
  c = base.several(
    'bigearthnet_mm', ('sentinel2_skysense', 'sentinel1_grd'), 128
  )
  c.task.update(kind='labels', loss='soft_margin', outputs=19)
  c.data.batch_size = 256
  c.data.window.form = 'whole'
  c.evaluation.metric = 'micro_map'
  c.optim.update(
    learning_rate=5e-5,
    weight_decay=0.01,
    shape='multistep',
    milestones=(0.6, 0.8),
  )
  c.train.total_epochs = 100.0
  return c
