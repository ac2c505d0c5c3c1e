"""SkySense V2 huge: the paper's architecture and recipe (arXiv 2507.13812).

AdamW 0.9/0.999, 2e-4 to 1e-6 and weight decay 0.04 to 0.2 by cosines, clip 3,
momentum of the teacher 0.996 to 1, 600,000 steps of 1,024 samples, 2 global
and 6 local views, 16 queries, 8 experts in the last 6 blocks. Command: `rsfm
inspect --config configs/pretrain/skysense_v2_huge.py`; nobody has trained it
with this code. Known deviations, all DEFAULTs where the paper says nothing:
warm-up of 10,000 steps, views of 512 and 256 pixels (16 and 8 at 10 m), heads
and temperatures of DINOv2, 10 and 5 dates (the paper says 10/5 and 20/10),
tables of positions 32 and 16, GELU in its tanh form, drop path 0.2 and 0.3.
"""

from configs import skysense_base


def get_config():
  c = skysense_base.get_config(
    'huge',
    dtype='bfloat16',
    remat='full',
    drop_path=0.2,
    fusion_drop_path=0.3,
  )
  c.data.tiles.batch_size = 1024
  c.data.tiles.dates = {'sentinel2_skysense': 10, 'sentinel1_grd': 5}
  c.data.tiles.sources = (('skysense', 'train', 1.0),)
  c.objective.class_table = 'classes'
  c.train.total_steps = 600_000
  return c
