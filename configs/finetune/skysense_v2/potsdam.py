"""ISPRS Potsdam, Table 4: near infrared, red, green 512; mF1 95.86.

Six classes with clutter and batch 16 are DEFAULT. The three bands take the
place of the HR sensor's tokenizer.
"""

from configs.finetune.skysense_v2 import base


def get_config():
  c = base.dense(
    base.get_config('potsdam', 'irrg_aerial', 512),
    classes=6,
    metric='macro_f1',
  )
  c.model.tokenizers.irrg_aerial = 'opt'
  c.data.normalisation = 'dataset'
  c.data.batch_size = 16
  c.data.window.update(form='scale', scale=(0.5, 2.0))
  return c
