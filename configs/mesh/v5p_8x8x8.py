"""RingMoE giant, 14.7 B, on 512 v5p chips.

Command: `rsfm compile --config configs/mesh/v5p_8x8x8.py
--topology v5p:8x8x8`.
"""

from configs import base
from configs.pretrain import ringmoe_giant


def get_config():
  c = ringmoe_giant.get_config()
  c.model.remat = 'products'
  return base.on_mesh(
    c, images_per_chip=64, chips=512, data=8, fsdp=16, expert=4
  )
