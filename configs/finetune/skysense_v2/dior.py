"""DIOR, Table 5: HR RGB 800, Faster R-CNN; mAP50.

Trained on the training split and chosen by the validation split; the paper
does not say whether it trains on both. Store: `rsfm data pack --dataset
dior --from DIOR --out STORES/dior`.
"""

from configs.finetune.skysense_v2 import base


def get_config():
  return base.boxes(base.get_config('dior', 'opt', 800), classes=20)
