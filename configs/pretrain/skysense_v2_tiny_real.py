"""SkySense V2 tiny on real places: Sentinel-1 and Sentinel-2 of several dates.

Question: does the whole way run on real series, with their missing sensors,
bands, dates and places? Ten places teach nothing general. Command: `rsfm data
pack --recipe places --shared ../shared --out STORES`, then `rsfm pretrain
--config configs/pretrain/skysense_v2_tiny_real.py --workdir W
--config.data.root=STORES`. Hardware: two CPU cores.

In: SEN12MS-CR (three places with a clear and a cloudy L1C image, one of them
with Sentinel-1; their days are not known), SSL4EO-S12 (one place, two dates of
each sensor, L2A), BigEarthNet (four pairs of one date), the WorldCereal patch
(118 and 159 dates) and its monthly cube (10 and 12, without B8A). Both
sensors lie on a grid of 10 m, so their factors are 1 and none of the merges
reduces; 20 m bands and the patch's 20 m radar are repeated to 10 m. L1C and L2A
are one sensor here, and clouds are not masked.

Out: high-resolution images, with which no place of useful size comes. The
TreeSatAI sample is packed, with `opt` at a factor of 50, but its 6 x 6
Sentinel pixels hold no view; no other place has such a factor. SSL4EO's L1C
shows the same ground again. No place has a map of land cover, so ITA is off.
Known deviations otherwise: sizes, steps and rates of a model this small.
"""

from configs import skysense_base


def get_config():
  c = skysense_base.get_config(
    'tiny',
    sensors=('sentinel2_skysense', 'sentinel1_grd'),
    channels=(10, 2),
    reduces=((False,) * 3,) * 2,
    image_sizes=(32, 32),
    patch_size=4,
  )
  c.objective.views.global_size = 32
  c.objective.views.local_size = 16
  c.objective.views.local_views = 4
  c.objective.ita_weight = 0.0
  c.objective.hidden = 128
  c.objective.bottleneck = 32
  c.objective.outputs = 64
  c.objective.queries = 8
  c.objective.query_heads = 2
  c.objective.clusters = 4
  c.objective.regions = 64
  c.objective.prototypes = 8
  c.objective.prototype_momentum = 0.99
  c.optim.learning_rate = 1e-3
  c.optim.warmup_steps = None
  c.optim.warmup_percent = 10.0
  c.train.ema_decay = 0.98
  c.data.tiles.sources = (
    ('places_sen12mscr', 'train', 0.3),
    ('places_ssl4eo', 'train', 0.2),
    ('places_bigearthnet', 'train', 0.2),
    ('places_worldcereal_patch', 'train', 0.15),
    ('places_worldcereal_cube', 'train', 0.15),
  )
  c.data.tiles.batch_size = 8
  c.data.tiles.tile = 64
  c.data.tiles.dates = {'sentinel2_skysense': 2, 'sentinel1_grd': 2}
  c.data.tiles.missing_sensors = 'mask'
  c.train.total_steps = 150
  c.train.checkpoint_percent = 50.0
  return c
