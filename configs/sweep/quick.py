"""What do labels, protocols and pruning change, on the demo's model?

Command: `rsfm demo`, then `rsfm sweep --config configs/sweep/quick.py`; it
reads `workdir/demo` and writes `workdir/sweep/quick`. Hardware: two CPU cores.
"""

from configs import sweep_base


def get_config():
  c = sweep_base.get_config()
  c.name = 'quick'
  c.checkpoints.demo = sweep_base.section(path='workdir/demo/pretrain')
  c.variants.pooled_1 = sweep_base.section(keep='pooled:1')
  c.datasets.scenes = sweep_base.section(
    store='workdir/demo/scenes', sensor='opt'
  )
  c.protocols = (
    'linear',
    'olmoearth_knn20',
    'galileo_knn5',
    'torchgeobench_knn5',
  )
  return c
