"""Change of land cover of synthetic scenes: a Siamese difference U-Net.

Command: `rsfm data synthesize --sensors opt --change --out STORES/scenes`, then
`rsfm finetune --config configs/finetune/change_tiny.py --workdir W
--config.data.root=STORES --config.model.checkpoint=RUN`, RUN the workdir of
`configs/pretrain/ringmoe_tiny.py`; without a checkpoint give
`--config.data.normalisation=dataset`. Hardware: two CPU cores.
"""

from configs import finetune_base


def get_config():
  c = finetune_base.get_config()
  c.data.store = 'scenes'
  c.task.update(
    kind='change',
    head='unet',
    loss='soft_margin',
    levels=('stage_0', 'stage_1', 'stage_2'),
    unet_channels=(64, 32, 16),
    outputs=1,
  )
  c.data.update(target='change', pair='after')
  c.evaluation.update(metric='f1', fit='tiles')
  c.data.batch_size = 16
  c.data.window.update(size=32, form='scale', symmetry='d4')
  c.optim.update(
    learning_rate=1e-3, warmup_percent=5.0, layer_decay=0.8, clip_norm=3.0
  )
  c.train.total_steps = 300
  return c
