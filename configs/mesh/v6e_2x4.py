"""RingMoE giant, 14.7 B, on eight v6e chips.

Command: `rsfm compile --config configs/mesh/v6e_2x4.py
--topology v6e:2x4`.
"""

from configs import base
from configs.pretrain import ringmoe_giant


def get_config():
  c = ringmoe_giant.get_config()
  return base.on_mesh(c, images_per_chip=8, chips=8, fsdp=2, expert=4)
