"""Halls, ships, vehicles and tanks of synthetic scenes: Oriented R-CNN.

Command: `rsfm data synthesize --sensors opt --objects 6 --samples 480 --out
STORES/objects`, then `rsfm finetune --config configs/finetune/boxes_tiny.py
--workdir W --config.data.root=STORES --config.model.checkpoint=RUN`, RUN the
workdir of `configs/pretrain/ringmoe_tiny.py`; without a checkpoint give
`--config.data.normalisation=dataset`. Hardware: two CPU cores.
"""

from configs import finetune_base


def get_config():
  c = finetune_base.get_config()
  c.data.store = 'objects'
  c.task.update(
    kind='oriented_boxes',
    head='oriented_rcnn',
    levels=('stage_0', 'stage_1', 'stage_2'),
    channels=32,
    outputs=4,
  )
  # Anchors of 8 pixels at the finest level; few boxes of few pixels.
  c.task.detector.update(
    anchor_scale=4.0,
    pre_nms=128,
    proposals=64,
    proposal_iou=0.8,
    rpn_samples=64,
    roi_samples=32,
    roi_size=5,
    hidden=128,
    boxes='shared',
    rpn_beta=1 / 9,
    roi_beta=1.0,
    candidates=64,
    nms_iou=0.1,
    detections=32,
  )
  c.data.update(target='boxes', max_boxes=64)
  c.evaluation.update(metric='map50', resamples=200)
  c.data.batch_size = 4
  c.data.window.update(size=64, symmetry='d4')
  c.optim.update(
    learning_rate=1e-3, warmup_percent=5.0, layer_decay=0.9, clip_norm=3.0
  )
  c.train.total_steps = 300
  c.train.evaluation_percent = 50.0
  return c
