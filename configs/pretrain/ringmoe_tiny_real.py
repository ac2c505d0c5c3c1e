"""RingMoE tiny on real scenes of four sensors (experiment E001).

Question: how far does a four-sensor RingMoE of 9.8 M parameters (1.85 M active
per image) get in half an hour on two CPU cores, measured on EuroSAT?
Command: `make real SHARED=../shared`.
Hardware: two CPU cores, 16 minutes (E001).
Known deviations from RingMoE: size; 32 px crops with 8 px mask units; cosine
attention; the corrected gate, balance and power target of the fact sheet.
"""

from configs import base


def get_config():
  c = base.get_config('tiny')
  c.data.streams.opt = base.stream(
    ('opt',),
    (
      ('opt_eurosat', 'train', 0.8),
      ('opt_ucmerced', 'train', 0.15),
      ('opt_naip_new', 'train', 0.025),
      ('opt_naip_old', 'train', 0.025),
    ),
    96,
  )
  c.data.streams.sar_l1 = base.stream(
    ('sar_l1',),
    (
      ('sar_l1_single_pol', 'train', 0.8),
      ('sar_l1_quad_pol', 'train', 0.2),
    ),
    16,
    missing_bands='mask',
  )
  c.data.streams.sar_l2 = base.stream(
    ('sar_l2',),
    (
      ('sar_l2_ssl4eo', 'train', 0.15),
      ('sar_l2_bigearthnet', 'train', 0.15),
      ('sar_l2_sen12mscr', 'train', 0.15),
      ('sar_l2_worldcereal', 'train', 0.15),
      ('sar_l2_mstar', 'train', 0.4),
    ),
    16,
  )
  c.data.streams.ms = base.stream(
    ('ms',),
    (
      ('ms_oscd', None, 0.4),
      ('ms_ssl4eo_l1c', 'train', 0.1),
      ('ms_ssl4eo_l2a', 'train', 0.1),
      ('ms_sen12mscr', 'train', 0.1),
      ('ms_bigearthnet', 'train', 0.1),
      ('ms_worldcereal_patch', 'train', 0.1),
      ('ms_worldcereal_cube', 'train', 0.1),
    ),
    16,
  )
  c.train.total_steps = 1200
  return c
