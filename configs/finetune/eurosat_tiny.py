"""A tiny model fine-tuned on EuroSAT's RGB scenes: the smallest real run.

Command: `rsfm data pack --recipe real --only opt_eurosat --shared ../shared
--out STORES`, then `rsfm finetune --config configs/finetune/eurosat_tiny.py
--workdir W --config.data.root=STORES --config.model.checkpoint=RUN`, RUN the
workdir of `configs/pretrain/ringmoe_tiny_real.py` or of `rsfm demo`; without a
checkpoint give `--config.data.normalisation=dataset`. Hardware: two CPU cores.
"""

from configs import finetune_base


def get_config():
  c = finetune_base.get_config()
  c.data.store = 'opt_eurosat'
  c.task.outputs = 10
  c.data.batch_size = 32
  c.data.window.update(
    size=32, form='area', area=(0.25, 1.0), symmetry='d4', filter='bicubic'
  )
  c.optim.learning_rate = 1e-3
  c.optim.warmup_percent = 5.0
  c.optim.layer_decay = 0.8
  c.optim.clip_norm = 3.0
  c.train.total_epochs = 5.0
  return c
