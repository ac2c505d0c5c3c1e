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
  # Each sensor draws scenes of its own; the optical one is what is probed.
  for sensor in c.model.sensors:
    c.data.streams[sensor] = base.stream(
      (sensor,), (('scenes', 'train', 1.0),), 32 if sensor == 'opt' else 4
    )
  c.train.total_steps = 150
  c.train.checkpoint_percent = 50.0
  return c
