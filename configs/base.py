"""Every key of a pre-training run, with the defaults that others start from.

Take a copy with `base.get_config(size)`, change what differs, return it:
one level, no chains. Durations are `*_steps | *_examples | *_epochs |
*_percent`; set one of each.
"""

import dataclasses

from ml_collections import config_dict

from rsfm_jax.data import augment
from rsfm_jax.models import sizes
from rsfm_jax.objectives import simmim


def get_config(size: str = 'tiny', **model_changes) -> config_dict.ConfigDict:
  c = config_dict.ConfigDict()
  c.seed = 0
  c.system = 'ringmoe'  # Or 'skysense_v2'; see `skysense_base.py`.

  # `RingMoESpec`: every field of the architecture.
  c.model = dataclasses.asdict(sizes.ringmoe_spec(size, **model_changes))
  for name, kind in (
    ('init_std', float),
    ('cpb_windows', tuple),
    ('balance_scale', float),
    ('buffer_factor', float),
    ('routing_groups', int),
  ):  # May be None.
    value, c.model[name] = c.model[name], config_dict.placeholder(kind)
    c.model[name] = value

  # `SimMIMSpec`; the SAR-L1 head is the model's.
  c.objective = dataclasses.asdict(simmim.SimMIMSpec(mask_unit=8))
  del c.objective.sar_l1_head
  c.objective.weights = config_dict.ConfigDict()

  # `OptimSpec` without `total_steps`, which is the run's.
  c.optim = config_dict.ConfigDict()
  c.optim.kind = 'adamw'  # Or 'adafactor', for machines with little memory.
  c.optim.weights = 'float32'  # Or 'bfloat16', rounded at random.
  c.optim.learning_rate = 2e-3  # At the global batch.
  c.optim.min_learning_rate = 1e-6
  c.optim.warmup_learning_rate = 0.0
  c.optim.warmup_steps = config_dict.placeholder(int)
  c.optim.warmup_percent = config_dict.placeholder(float)
  c.optim.warmup_percent = 5.0
  c.optim.b1 = 0.9
  c.optim.b2 = 0.98
  c.optim.eps = 1e-8
  c.optim.weight_decay = 0.05
  c.optim.final_weight_decay = config_dict.placeholder(float)  # By cosine.
  c.optim.clip_norm = 3.0
  c.optim.bias_correction = True
  c.optim.cosine = 'after_warmup'
  c.optim.reference_batch = config_dict.placeholder(int)
  # First match wins; every parameter must be covered.
  c.optim.decay_rules = (
    (r'.*/(kernel|w_in|w_out|router)', True),
    (r'.*', False),
  )

  c.data = config_dict.ConfigDict()
  c.data.root = ''  # Folder of the stores named below.
  # One entry per stream: the sensors of its samples, `(store, split, weight)`
  # per source, samples per step over all hosts, and the policy for bands that
  # a store lacks. A stream of several sensors draws co-registered samples.
  c.data.streams = config_dict.ConfigDict()
  c.data.crop = dataclasses.asdict(
    augment.Crop(size=c.model.image_size, area=(0.15, 0.6))
  )
  c.data.workers = 0  # Processes; 0 makes batches in threads.
  c.data.threads = 2

  # What the model is probed on while it trains: entries of `evaluation`, by
  # name; none is off. Every `train.evaluation_*` and after the last step.
  c.evaluation = config_dict.ConfigDict()
  c.evaluation.datasets = config_dict.ConfigDict()
  c.evaluation.protocols = ('olmoearth_knn20',)
  c.evaluation.batch_size = 64

  c.train = config_dict.ConfigDict()
  c.train.total_steps = config_dict.placeholder(int)
  c.train.total_examples = config_dict.placeholder(int)
  c.train.total_epochs = config_dict.placeholder(float)
  # A model folder whose parameters the run starts from; see `rsfm import`.
  c.train.init_from = config_dict.placeholder(str)
  c.train.accumulate = 1  # Microbatches per step.
  c.train.ema_decay = config_dict.placeholder(float)
  c.train.final_ema_decay = config_dict.placeholder(float)  # By cosine.
  c.train.nonfinite_limit = 10  # Bad steps in a row before the run stops.
  c.train.evaluation_percent = 10.0
  c.train.checkpoint_percent = 10.0
  c.train.keep = 2  # Newest checkpoints that stay.
  c.train.log_steps = 10

  # Sizes of the mesh axes; -1 takes what is left of the devices. `placement`:
  # 'sensor' puts each sensor's samples where its experts live, 'exchange'
  # sends their tokens, 'auto' aligns where sizes allow.
  c.mesh = config_dict.ConfigDict(
    {'data': -1, 'fsdp': 1, 'expert': 1, 'tensor': 1, 'placement': 'auto'}
  )
  return c


def stream(sensors, sources, batch_size, missing_bands='error'):
  """One entry of `data.streams`; see there."""
  return config_dict.ConfigDict(
    {
      'sensors': tuple(sensors),
      'sources': tuple(sources),
      'batch_size': batch_size,
      'missing_bands': missing_bands,
    }
  )


def evaluation(store, sensor='opt', **options):
  """One entry of `evaluation.datasets`: a labelled store in `data.root`.

  Options are those of `cli.datasets.Dataset`, for instance `fit` and `size`,
  or `sensors` with their `dates` in place of `sensor` (SkySense V2).
  """
  return config_dict.ConfigDict({'store': store, 'sensor': sensor, **options})


def on_mesh(c, *, images_per_chip, chips, **sizes):
  """Cuts a config for a number of chips; every sensor gets as many images."""
  c.mesh.update({'data': 1, 'fsdp': 1, 'expert': 1, 'tensor': 1, **sizes})
  for stream in c.data.streams.values():
    stream.batch_size = images_per_chip * chips // len(c.data.streams)
  return c
