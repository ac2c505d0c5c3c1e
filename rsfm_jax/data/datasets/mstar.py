"""MSTAR under standard operating conditions: 10 vehicles, SAR amplitude chips.

One size from the centre: the size of a chip would give its class away.
"""

from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division
from rsfm_jax.sensors import contract

# Detected amplitude without calibration, its full scale taken as 1 (0 dB).
SENSOR = contract.Sensor(
  name='mstar',
  kind=contract.Kind.SAR_AMPLITUDE,
  bands=(
    contract.Band(
      name='amplitude',
      units=contract.Units.UINT8,
      polarisation='HH',
      common_name='amplitude',
    ),
  ),
  gsd_m=0.3,
  scale=1 / 255,
)
_CLASSES = tuple(
  '2S1 BMP2 BRDM_2 BTR70 BTR_60 D7 T62 T72 ZIL131 ZSU_23_4'.split()
)

DATASETS = (
  dataset.Dataset(
    name='mstar',
    source='README of the samples, mstar_soc_jpeg',
    recipe=recipe.Recipe(
      sensor=SENSOR,
      store_as='sar_l2',
      bands_as='samples',
      chip=128,
      cut='centre',
      licence='CC BY-NC 4.0',
    ),
    image='{label}/{id}.jpeg',
    label='label',
    classes=_CLASSES,
    division=division.Table(),
    counts={'train': 520, 'val': 80, 'test': 200},
  ),
)
