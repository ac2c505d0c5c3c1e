"""RingMoE giant, 14.7 B, on eight H200 GPUs of one host.

Command: `rsfm compile --config configs/mesh/h200_8.py
--topology h200:8`.
"""

from configs import base
from configs.pretrain import ringmoe_giant


def get_config():
  c = ringmoe_giant.get_config()
  return base.on_mesh(c, images_per_chip=16, chips=8, fsdp=2, expert=4)
