"""Every key of a SkySense V2 pre-training, with the defaults of the paper.

Take a copy with `skysense_base.get_config(size)`, change what differs, return
it. Sections that RingMoE has too are those of `base.py`.
"""

import dataclasses

from ml_collections import config_dict

from configs import base
from rsfm_jax.models import sizes
from rsfm_jax.objectives import heads
from rsfm_jax.objectives import photometric
from rsfm_jax.objectives import views


def get_config(size: str = 'tiny', **model_changes) -> config_dict.ConfigDict:
  c = base.get_config()
  c.system = 'skysense_v2'

  # `SkySenseV2Spec`: every field of the architecture.
  c.model = dataclasses.asdict(sizes.skysense_v2_spec(size, **model_changes))
  for name, kind in (
    ('init_std', float),
    ('cpb_windows', tuple),
    ('routing_groups', int),
    ('position_grids', tuple),
  ):  # May be None.
    value, c.model[name] = c.model[name], config_dict.placeholder(kind)
    c.model[name] = value

  # `LossSpec` without `total_steps`, which is the run's; `ViewSpec` and
  # `PhotometricSpec`; and the folder of ITA's class table, in `data.root`.
  c.objective = dataclasses.asdict(heads.LossSpec(total_steps=1))
  del c.objective.total_steps
  c.objective.views = dataclasses.asdict(
    views.ViewSpec(global_size=512, local_size=256)
  )
  c.objective.photometric = dataclasses.asdict(photometric.PhotometricSpec())
  c.objective.class_table = ''

  # arXiv 2507.13812, section 4.1, but for the warm-up (NOT FOUND, DEFAULT).
  c.optim.learning_rate = 2e-4
  c.optim.min_learning_rate = 1e-6
  c.optim.warmup_percent = None
  c.optim.warmup_steps = 10_000
  c.optim.b2 = 0.999
  c.optim.weight_decay = 0.04
  c.optim.final_weight_decay = 0.2
  c.optim.clip_norm = 3.0
  c.optim.decay_rules = (
    (r'.*/(kernel|w_in|w_out|router|directions)', True),
    (r'.*', False),
  )
  c.train.ema_decay = 0.996
  c.train.final_ema_decay = 1.0

  # `TileStream`: tiles of all sensors at once. `sources`: `(store, split,
  # weight)`; `tile`: pixels of the finest sensor; `dates` of a sample per
  # sensor, 1 for those that are not named; `factors`: pixels of the finest
  # sensor per pixel of each.
  del c.data.streams, c.data.crop
  c.data.tiles = config_dict.ConfigDict()
  c.data.tiles.sources = ()
  c.data.tiles.batch_size = 8
  c.data.tiles.tile = 2048
  c.data.tiles.dates = config_dict.ConfigDict()
  c.data.tiles.factors = config_dict.ConfigDict()
  c.data.tiles.day_jitter = 15  # Days; NOT FOUND, DEFAULT.
  c.data.tiles.missing_bands = 'error'
  c.data.tiles.missing_sensors = 'error'
  finest, *coarse = c.model.sensors
  c.data.tiles.factors[finest] = 1
  for sensor, size_ in zip(coarse, c.model.image_sizes[1:], strict=True):
    c.data.tiles.factors[sensor] = c.model.image_sizes[0] // size_
  return c
