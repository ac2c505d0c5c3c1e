"""MAPEX-style tiny on synthetic scenes of Sentinel-2 and Sentinel-1.

Question: does the whole way work, do experts part by sensor, and does
pre-training teach anything (experiment E003)? Command: `rsfm demo --system
mapex`, or `rsfm pretrain --config configs/pretrain/mapex_tiny.py --workdir W
--config.data.root=STORES` after `rsfm data synthesize --out STORES/scenes
--sensors sentinel2_skysense,sentinel1_grd`; the six sensors are groups of
their bands. Hardware: two CPU cores. Known deviations: sizes, steps and rates
of a model this small. MAPEX's own method text is not available.
"""

from configs import mapex_base


def get_config():
  # A quarter of the tokens that patches of 4 px would be.
  c = mapex_base.get_config('tiny', patch_size=8)
  c.optim.learning_rate = 2e-3
  c.optim.warmup_percent = 10.0
  c.data.samples.sources = (('scenes', 'train', 1.0),)
  c.data.samples.batch_size = 32
  c.data.crop.area = (0.2, 1.0)
  c.train.total_steps = 600
  c.train.checkpoint_percent = 50.0
  return c
