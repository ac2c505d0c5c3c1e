"""AID, Table 7: HR RGB 320, linear head; OA 98.34 (20 %), 99.05 (50 %).

"Warm-up 5 from 0.01" is read as 5 epochs from 0.01 of the rate. Batch 64 and
the area of the crop are DEFAULT. The store's training split is that of the
paper's share of labels.
"""

from configs.finetune.skysense_v2 import base


def get_config():
  c = base.get_config('aid', 'opt', 320)
  c.task.outputs = 30
  c.data.batch_size = 64
  c.data.window.update(form='area', area=(0.2, 1.0))
  c.mixing.update(erasing=0.3, erasing_area=(0.03, 0.333))
  c.optim.update(
    learning_rate=6e-5,
    weight_decay=0.05,
    warmup_percent=2.5,  # 5 epochs of 200.
    warmup_learning_rate=0.01 * 6e-5,
  )
  c.train.total_epochs = 200.0
  return c
