"""RingMoE giant, 14.7 B, on 256 v6e chips.

Command: `rsfm compile --config configs/mesh/v6e_16x16.py
--topology v6e:16x16`.
"""

from configs import base
from configs.pretrain import ringmoe_giant


def get_config():
  c = ringmoe_giant.get_config()
  c.model.remat = 'hidden'
  return base.on_mesh(
    c, images_per_chip=16, chips=256, data=4, fsdp=16, expert=4
  )
