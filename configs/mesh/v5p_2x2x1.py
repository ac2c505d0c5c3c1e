"""RingMoE giant, 14.7 B, on four v5p chips, the smallest v5p slice that holds it.

Command: `rsfm compile --config configs/mesh/v5p_2x2x1.py --topology v5p:2x2x1`. What
came out stands in experiments/E010_scaling.
"""

from configs import base
from configs.pretrain import ringmoe_giant


def get_config():
  c = ringmoe_giant.get_config()
  return base.on_mesh(c, images_per_chip=32, chips=4, expert=4)
