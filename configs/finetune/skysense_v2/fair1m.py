"""FAIR1M, Table 5: HR RGB 512, Oriented R-CNN; mAP50.

"Rotate" is read as quarter turns beside the flips (DEFAULT). The test images
have no public annotations: rows are of the validation images, which choose the
best state too, chip by chip, where the paper's toolbox merges the chips of an
image. Store: `rsfm data pack --dataset fair1m --from FAIR1M --out
STORES/fair1m`.
"""

from configs.finetune.skysense_v2 import base


def get_config():
  c = base.oriented(base.get_config('fair1m', 'opt', 512), classes=37)
  c.data.update(val_split='val', test_split='val')
  c.data.window.symmetry = 'd4'
  c.optim.milestones = (5 / 8, 7 / 8)  # DEFAULT: epochs 5 and 7 of 8.
  c.optim.warmup_steps = 500
  c.train.total_epochs = 8.0
  return c
