"""MAPEX-style tiny on real scenes: aerial and Sentinel colours, bands, radar.

Question: do experts part by sensor on real data, and what is a model worth that
is pruned to one of them (experiment E003)? Command: `rsfm data pack --recipe
real --shared ../shared --out STORES`, the same with `--recipe places`, then
`rsfm pretrain --config configs/pretrain/mapex_tiny_real.py --workdir W
--config.data.root=STORES`; probe `opt` on STORES/opt_eurosat. Hardware: two CPU
cores.

In: EuroSAT and UC Merced as `opt`, which no other sensor accompanies; and ten
places with the six groups of Sentinel-2 and Sentinel-1 (of a series, the first
date), of which SEN12MS-CR lacks radar in part and the WorldCereal cube lacks
B8A. Ten places teach nothing general about the groups. Known deviations: sizes,
steps and rates of a model this small; MAPEX's own method text is not available.
"""

from configs import mapex_base


def get_config():
  c = mapex_base.get_config(
    'tiny',
    sensors=(
      'opt',
      's2_rgb',
      's2_rededge',
      's2_nir',
      's2_swir',
      's1_vv',
      's1_vh',
    ),
    channels=(3, 3, 3, 1, 3, 1, 1),
    patch_size=8,
  )
  c.optim.learning_rate = 2e-3
  c.optim.warmup_percent = 10.0
  c.data.samples.sources = (
    ('opt_eurosat', 'train', 0.5),
    ('opt_ucmerced', 'train', 0.1),
    ('places_sen12mscr', 'train', 0.1),
    ('places_ssl4eo', 'train', 0.1),
    ('places_bigearthnet', 'train', 0.1),
    ('places_worldcereal_patch', 'train', 0.05),
    ('places_worldcereal_cube', 'train', 0.05),
  )
  c.data.samples.batch_size = 48
  c.data.samples.missing_sensors = 'mask'
  c.data.crop.area = (0.2, 1.0)
  c.train.total_steps = 600
  return c
