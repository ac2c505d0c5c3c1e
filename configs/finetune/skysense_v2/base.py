"""What the fine-tunings of SkySense V2's Tables 4, 6 and 7 share.

arXiv 2507.13812: AdamW and drop path 0.2 everywhere, flips with probability
0.5, the teacher's weights, for one sensor without the fusion. Layer-wise decay
over 26 levels. What the paper does not say (batch sizes, milestones, which maps
a head reads) is marked DEFAULT in each file; `facts` of the project say where
it comes from.

Each config names its store by `data.store`; give `--config.data.root=STORES`
and `--config.model.checkpoint=RUN`, a pre-training of
`configs/pretrain/skysense_v2_huge.py` (or of any other size). Hardware: as for
the pre-training, on fewer devices.

Not here: Table 5 (DIOR, DIOR-R, FAIR1M), since the project has no detection
heads, and Table 8 (Dyna.-MM, PASTIS-MM, BEN-MM), whose several sensors and
series the fine-tuning does not read yet.
"""

from configs import finetune_base

# UPerNet, U-Net: DEFAULT (v1's public configs), one map per stage.
PYRAMID = ('stage_0', 'stage_1', 'stage_2', 'stage_3')


def get_config(store: str, sensor: str, size: int):
  c = finetune_base.get_config()
  c.name = 'SkySense V2'
  c.protocol.name = 'skysense_v2_ft'
  c.model.system = 'skysense_v2'
  c.model.size = 'huge'
  c.model.changes = {'drop_path': 0.2, 'dtype': 'bfloat16', 'remat': 'full'}
  c.data.store = store
  c.data.sensor = sensor
  c.data.window.size = size
  c.data.window.symmetry = 'flip'
  c.optim.layer_decay = 0.9
  return c


def dense(c, *, classes: int, metric: str):
  """Table 4: UPerNet, cross-entropy, poly over 80 k steps."""
  c.task.update(
    kind='segmentation', head='upernet', levels=PYRAMID, outputs=classes
  )
  c.data.target = 'mask'
  c.evaluation.update(metric=metric, fit='tiles')
  c.optim.update(
    learning_rate=1e-4,
    weight_decay=0.01,
    layer_decay=0.8,
    shape='poly',
    warmup_steps=1500,
    warmup_learning_rate=1e-6,  # "Linear warm-up 1.5k from 1e-6".
  )
  c.train.total_steps = 80_000
  c.train.evaluation_percent = 5.0
  return c
