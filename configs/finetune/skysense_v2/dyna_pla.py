"""DynamicEarthNet, Planet, Table 4: RGB and near infrared 1024; mIoU 41.2/47.6.

Batch 8 and 6 classes (without snow, as its benchmark evaluates) are DEFAULT.
A checkpoint whose HR tokenizer has three bands starts this one anew.
"""

from configs.finetune.skysense_v2 import base


def get_config():
  c = base.dense(
    base.get_config('dyna_pla', 'planetscope', 1024), classes=6, metric='miou'
  )
  c.model.tokenizers.planetscope = 'opt'
  c.model.fresh = ('embed/planetscope/kernel',)
  c.data.normalisation = 'dataset'
  c.data.batch_size = 8
  c.data.window.form = 'scale'  # A plain crop.
  return c
