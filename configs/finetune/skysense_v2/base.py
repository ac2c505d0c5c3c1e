"""What the fine-tunings of SkySense V2's Tables 4 to 8 share.

arXiv 2507.13812: AdamW and drop path 0.2 everywhere, flips with probability
0.5, the teacher's weights, for one sensor without the fusion. Layer-wise decay
over 26 levels. What the paper does not say (batch sizes, milestones, which maps
a head reads) is marked DEFAULT in each file; `facts` of the project say where
it comes from.

Each config names its store by `data.store`; give `--config.data.root=STORES`
and `--config.model.checkpoint=RUN`, a pre-training of
`configs/pretrain/skysense_v2_huge.py` (or of any other size). Hardware: as for
the pre-training, on fewer devices.

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


def several(store: str, sensors: tuple[str, ...], size: int):
  """Table 8: the fusion over sensors and dates, with the prototypes."""
  c = get_config(store, '', size)
  c.model.changes['fusion_drop_path'] = 0.2
  c.data.sensors = sensors
  c.data.window.form = 'scale'  # A plain crop; no augmentation but flips.
  c.task.levels = ('fused',)
  c.optim.layer_decay = 1.0
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


def boxes(c, *, classes: int):
  """Table 5: Faster R-CNN, multistep over 12 epochs.

  What the paper does not say is that of mmdetection's 1x schedule (see
  `tasks.detection.spec`). DEFAULT: batch 8, epochs 8 and 11 as milestones, the
  pyramid on the four stages, at most 1,000 objects per image.
  """
  c.task.update(
    kind='boxes',
    head='faster_rcnn',
    levels=PYRAMID,
    channels=256,
    outputs=classes,
  )
  c.data.update(target='boxes', max_boxes=1000, batch_size=8)
  c.evaluation.update(metric='map50', fit='resize')
  c.optim.update(
    learning_rate=8e-5,
    weight_decay=0.05,
    layer_decay=0.85,
    shape='multistep',
    milestones=(8 / 12, 11 / 12),
    warmup_steps=1000,
    # "Warm-up 1k from 1e-3", a factor as in mmdetection.
    warmup_learning_rate=1e-3 * 8e-5,
  )
  c.train.total_epochs = 12.0
  c.train.evaluation_percent = 100 / 12
  return c


def oriented(c, *, classes: int):
  """Table 5: Oriented R-CNN, with mmrotate's defaults where they differ."""
  c = boxes(c, classes=classes)
  c.task.update(kind='oriented_boxes', head='oriented_rcnn')
  c.task.detector.update(
    border='inside',
    rpn_beta=1 / 9,
    proposals=2000,
    proposal_iou=0.8,
    roi_beta=1.0,
    boxes='shared',
    candidates=2000,
    nms_iou=0.1,
    detections=2000,
  )
  return c
