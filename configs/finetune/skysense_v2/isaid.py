"""iSAID, Table 4: HR RGB 896, mIoU; 71.87 in the paper.

16 classes with the background (DEFAULT, mmsegmentation's); batch 16 (DEFAULT,
v1's public config: 8 GPUs x 2). Known deviation: tiles smaller than a window
are enlarged where the paper's toolbox pads.
"""

from configs.finetune.skysense_v2 import base


def get_config():
  c = base.dense(
    base.get_config('isaid', 'opt', 896), classes=16, metric='miou'
  )
  c.data.batch_size = 16
  c.data.window.update(form='scale', scale=(0.5, 2.0))
  return c
