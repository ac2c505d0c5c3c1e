"""DIOR-R, Table 5: HR RGB 800, Oriented R-CNN; mAP50.

Trained on the training split and chosen by the validation split; the paper
does not say whether it trains on both. Store: `rsfm data pack --dataset
dior_r --from DIOR --out STORES/dior_r`.
"""

from configs.finetune.skysense_v2 import base


def get_config():
  return base.oriented(base.get_config('dior_r', 'opt', 800), classes=20)
