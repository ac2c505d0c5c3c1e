"""SkySense V2 tiny on synthetic scenes of two pixel sizes and several dates.

Question: does the whole way work, with all four losses, and does it teach
anything? Command: `rsfm demo --system skysense_v2`, or `rsfm pretrain --config
configs/pretrain/skysense_v2_tiny.py --workdir W --config.data.root=STORES`
after `rsfm data synthesize --out STORES/scenes --size 128 --dates 4 --sensors
opt,sentinel2_skysense,sentinel1_grd --coarse sentinel2_skysense=8,
sentinel1_grd=8`. Hardware: two CPU cores. Known deviations: sizes, steps and
rates of a model this small; weights of 0.1 and 0.3 in place of 1 for MGCL and
QSACL; class vectors without meaning unless a table is given.
"""

from configs import skysense_base


def get_config():
  # Patches of 4 pixels: a quarter of the tokens that patches of 2 have.
  c = skysense_base.get_config('tiny', patch_size=4)
  c.objective.views.global_size = 64
  c.objective.views.local_size = 32
  c.objective.views.local_views = 4
  # Weak enough to leave something to agree on in 64 pixels.
  c.objective.photometric.update(
    brightness=0.2,
    contrast=0.2,
    saturation=0.1,
    hue=0.02,
    grey=0.0,
    solarise=0.0,
    sigma=(0.1, 0.7),
  )
  # A dozen contrasts are summed; with few images they drown the map of classes,
  # which teaches such a model most (E002).
  c.objective.mgcl_weight = 0.1
  c.objective.qsacl_weight = 0.3
  c.objective.hidden = 128
  c.objective.bottleneck = 32
  # Sinkhorn gives every output its share of the rows: more outputs than images
  # of a batch would make the targets uniform.
  c.objective.outputs = 64
  c.objective.queries = 8
  c.objective.query_heads = 2
  c.objective.clusters = 4
  c.objective.regions = 64
  c.objective.prototypes = 8
  c.objective.prototype_momentum = 0.99
  c.objective.class_table = 'classes'
  c.optim.learning_rate = 2e-3
  c.optim.warmup_steps = None
  c.optim.warmup_percent = 10.0
  # A teacher that forgets in fifty steps, since there are only hundreds.
  c.train.ema_decay = 0.98
  c.data.tiles.sources = (('scenes', 'train', 1.0),)
  c.data.tiles.batch_size = 16
  c.data.tiles.tile = 128
  c.data.tiles.dates = {'sentinel2_skysense': 2, 'sentinel1_grd': 2}
  c.train.total_steps = 400
  c.train.checkpoint_percent = 50.0
  return c
