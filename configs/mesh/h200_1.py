"""RingMoE giant, 14.7 B, on one H200 (139 GiB).

Command: `rsfm compile --config configs/mesh/h200_1.py
--topology h200:1`.
"""

from configs import base
from configs.pretrain import ringmoe_giant


def get_config():
  c = ringmoe_giant.get_config()
  c.optim.kind = 'adafactor'  # AdamW's moments alone are 118 GB.
  c.optim.weights = 'bfloat16'  # And no accumulation: 28 GB of sums.
  return base.on_mesh(c, images_per_chip=16, chips=1)
