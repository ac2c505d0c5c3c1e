"""Groups of bands, by names of the contract."""

import pytest

from rsfm_jax.sensors import band_groups
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import contract


@pytest.mark.parametrize(
  'name, groups',
  [
    (
      'sentinel2_l2a',
      {
        'visible': (0, 1, 2, 3),
        'red edge': (4, 5, 6),
        'near infrared': (7, 8, 9),
        'shortwave infrared': (10, 11),
      },
    ),
    ('sentinel1_grd', {'VV': (0,), 'VH': (1,)}),
    ('sar_l1', {'HH': (0, 1), 'HV': (2, 3), 'VH': (4, 5), 'VV': (6, 7)}),
    ('opt', {'red': (0,), 'green': (1,), 'blue': (2,)}),
    ('sar_l2', {'amplitude': (0,)}),
  ],
)
def test_known_sensors(name, groups):
  assert band_groups.groups(catalogue.get(name)) == groups


def test_a_band_that_nobody_knows_is_its_own_group():
  sensor = catalogue.get('opt')
  other = contract.Band(name='x', units=contract.Units.UINT8)
  bands = (sensor.bands[0], other, sensor.bands[1])
  made = contract.Sensor(name='odd', kind=sensor.kind, bands=bands)
  assert band_groups.groups(made) == {'visible': (0, 2), 'x': (1,)}
