"""RingMoE tiny on synthetic four-sensor landscapes: what `rsfm demo` trains.

Question: does the whole way work, and does pre-training teach anything?
Command: `make demo`, or `rsfm pretrain --config configs/pretrain/
ringmoe_tiny.py --workdir W --config.data.root=STORES` after
`rsfm data synthesize --out STORES/scenes`.
Hardware: two CPU cores.
"""

from configs import base


def get_config():
  c = base.get_config('tiny')
  c.data.streams.paired = base.stream(
    ('opt', 'sar_l1', 'sar_l2', 'ms'), (('scenes', 'train', 1.0),), 16
  )
  c.train.total_steps = 180
  return c
