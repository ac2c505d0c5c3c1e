"""Every key of a MAPEX-style pre-training; all values are DEFAULTs.

The method text of MAPEX (arXiv 2507.07527) is not available. Take a copy with
`mapex_base.get_config(size)`, change what differs, return it. Sections that
RingMoE has too are those of `base.py`.
"""

import dataclasses

from ml_collections import config_dict

from configs import base
from rsfm_jax.data import augment
from rsfm_jax.models import sizes
from rsfm_jax.objectives import mae


def get_config(size: str = 'tiny', **model_changes) -> config_dict.ConfigDict:
  c = base.get_config()
  c.system = 'mapex'

  # `MapexSpec`: every field of the architecture.
  c.model = dataclasses.asdict(sizes.mapex_spec(size, **model_changes))
  for name, kind in (
    ('init_std', float),
    ('routing_groups', int),
    ('partition', tuple),
  ):  # May be None.
    value, c.model[name] = c.model[name], config_dict.placeholder(kind)
    c.model[name] = value

  # `MAESpec`.
  c.objective = dataclasses.asdict(mae.MAESpec())

  # MAE's recipe, at a batch of 1024: 1.5e-4 per 256 images.
  c.optim.learning_rate = 6e-4
  c.optim.min_learning_rate = 0.0
  c.optim.b2 = 0.95

  # `pipeline.Stream`: samples that hold all sensors of the model. `sources`:
  # `(store, split, weight)`; a store may have them as groups of bands of a
  # whole sensor. `missing_sensors='mask'` takes samples that lack some.
  del c.data.streams
  c.data.samples = config_dict.ConfigDict()
  c.data.samples.sources = ()
  c.data.samples.batch_size = 1024
  c.data.samples.missing_bands = 'error'
  c.data.samples.missing_sensors = 'error'
  c.data.crop = dataclasses.asdict(
    augment.Crop(size=c.model.image_size, area=(0.2, 1.0))
  )
  return c
