"""RingMoE giant: the published 14.7 B architecture and recipe.

Source: RingMoE's public configuration (arXiv 2504.03166 and its framework):
192 px, patch 4, window 12, AdamW 0.9/0.999, weight decay 0.05, clip 5, cosine
after 200 warm-up steps, 20 epochs. Command: `rsfm inspect --config
configs/pretrain/ringmoe_giant.py`; nobody has trained it with this code.
Known deviations: learning rate at the global batch (2.5e-4 at 512, inferred;
quirk Q10), gate and balance corrected, power target for SAR-L1. Global batch
and number of steps of the original run: NOT FOUND.
"""

from configs import base


def get_config():
  c = base.get_config('giant', remat='full', dtype='bfloat16')
  c.objective.mask_unit = 32
  c.optim.learning_rate = 2.5e-4
  c.optim.min_learning_rate = 5e-7
  c.optim.warmup_learning_rate = 1e-6
  c.optim.warmup_steps = 200
  c.optim.warmup_percent = None
  c.optim.b2 = 0.999
  c.optim.clip_norm = 5.0
  c.optim.reference_batch = 512
  c.data.crop.area = (0.2, 0.5)
  for sensor in c.model.sensors:
    c.data.streams[sensor] = base.stream(
      (sensor,), ((sensor, 'train', 1.0),), 32, missing_bands='error'
    )
  c.data.streams.sar_l1.missing_bands = 'mask'
  c.train.total_epochs = 20.0
  return c
