"""Land cover from three sensors, two of them series: an FCN on fused features.

Command: `rsfm data synthesize` as for `configs/pretrain/skysense_v2_tiny.py`,
then `rsfm finetune --config configs/finetune/series_tiny.py --workdir W
--config.data.root=STORES --config.model.checkpoint=RUN`, RUN the workdir of
that pre-training; without a checkpoint give
`--config.data.normalisation=dataset`. One sensor's series is
`--config.data.sensors='("sentinel2_skysense",)'`. Hardware: two CPU cores.
"""

from configs import finetune_base


def get_config():
  c = finetune_base.get_config()
  c.model.system = 'skysense_v2'
  c.data.store = 'scenes'
  c.data.sensors = ('opt', 'sentinel2_skysense', 'sentinel1_grd')
  for sensor in c.data.sensors[1:]:
    c.data.dates[sensor] = 2
    c.data.factors[sensor] = 8
    c.evaluation.dates[sensor] = 4  # All that there are.
  c.task.update(
    kind='segmentation', head='fcn', levels=('fused',), channels=64, outputs=12
  )
  c.data.target = 'landcover'
  c.evaluation.update(metric='miou', fit='tiles')
  c.data.batch_size = 16
  c.data.window.update(size=64, form='scale', symmetry='d4')
  c.optim.update(
    learning_rate=1e-3, warmup_percent=5.0, layer_decay=0.8, clip_norm=3.0
  )
  c.train.total_steps = 300
  return c
