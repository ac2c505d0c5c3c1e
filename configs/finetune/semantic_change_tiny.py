"""Land cover of synthetic scenes at two dates, and to what it changes.

Command: `rsfm data synthesize --sensors opt --change --out STORES/scenes`, then
`rsfm finetune --config configs/finetune/semantic_change_tiny.py --workdir W
--config.data.root=STORES --config.model.checkpoint=RUN`, RUN the workdir of
`configs/pretrain/ringmoe_tiny.py`; without a checkpoint give
`--config.data.normalisation=dataset`. Hardware: two CPU cores.
"""

from configs import finetune_base


def get_config():
  c = finetune_base.get_config()
  c.data.store = 'scenes'
  c.task.update(
    kind='semantic_change',
    head='upernet',
    levels=('stage_0', 'stage_1', 'stage_2'),
    channels=64,
    outputs=12,
  )
  c.data.update(target='landcover', pair='after')
  c.evaluation.update(metric='scs', fit='tiles')
  c.data.batch_size = 16
  c.data.window.update(size=32, form='scale', symmetry='d4')
  c.optim.update(
    learning_rate=1e-3, warmup_percent=5.0, layer_decay=0.8, clip_norm=3.0
  )
  c.train.total_steps = 300
  return c
