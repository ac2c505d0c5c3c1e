"""RingMoE giant, 14.7 B, on 64 v5p chips.

Command: `rsfm compile --config configs/mesh/v5p_4x4x4.py
--topology v5p:4x4x4`.
"""

from configs import base
from configs.pretrain import ringmoe_giant


def get_config():
  c = ringmoe_giant.get_config()
  c.model.remat = 'products'
  return base.on_mesh(c, images_per_chip=64, chips=64, fsdp=16, expert=4)
