"""RingMoE giant, 14.7 B, on sixteen v5e chips.

Command: `rsfm compile --config configs/mesh/v5e_4x4.py
--topology v5e:4x4`.
A proposal: it has not been compiled to the end yet (E010).
"""

from configs import base
from configs.pretrain import ringmoe_giant


def get_config():
  c = ringmoe_giant.get_config()
  return base.on_mesh(c, images_per_chip=4, chips=16, fsdp=4, expert=4)
