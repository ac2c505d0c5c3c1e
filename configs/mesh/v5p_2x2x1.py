"""RingMoE giant, 14.7 B, on four v5p chips.

Command: `rsfm compile --config configs/mesh/v5p_2x2x1.py
--topology v5p:2x2x1`.
"""

from configs import base
from configs.pretrain import ringmoe_giant


def get_config():
  c = ringmoe_giant.get_config()
  c.model.remat = 'hidden'
  return base.on_mesh(c, images_per_chip=32, chips=4, expert=4)
