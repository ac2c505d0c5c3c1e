"""The catalogue: names, orders and numbers that others rely on."""

import json
import os

import pytest

from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import contract

GOLDEN = {
  'opt': 'red green blue',
  'sar_l1': 'HH_I HH_Q HV_I HV_Q VH_I VH_Q VV_I VV_Q',
  'sar_l2': 'amplitude',
  'ms': 'blue green red nir',
  'sentinel2_l1c': 'B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12',
  'sentinel2_l2a': 'B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12',
  'sentinel2_skysense': 'B02 B03 B04 B05 B06 B07 B08 B8A B11 B12',
  'sentinel1_grd': 'VV VH',
  'rgb_aerial': 'red green blue',
  'naip': 'red green blue nir',
  'irrg_aerial': 'nir red green',
  'planetscope': 'red green blue nir',
  'landsat8': 'B1 B2 B3 B4 B5 B6 B7',
  'landsat9': 'B1 B2 B3 B4 B5 B6 B7',
  'dem': 'elevation',
  's2_rgb': 'B04 B03 B02',
  's2_rededge': 'B05 B06 B07',
  's2_nir': 'B08',
  's2_swir': 'B11 B12 B8A',
  's1_vv': 'VV',
  's1_vh': 'VH',
}


def test_band_names_and_orders_are_an_api():
  found = {n: ' '.join(catalogue.get(n).band_names) for n in catalogue.names()}
  assert found == GOLDEN


@pytest.mark.parametrize('name', catalogue.names())
def test_a_contract_survives_json(name):
  sensor = catalogue.get(name)
  assert sensor.name == name
  text = json.dumps(sensor.to_json())
  assert contract.Sensor.from_json(json.loads(text)) == sensor


@pytest.mark.parametrize('name', catalogue.names())
def test_bands_share_a_unit_and_optical_bands_a_common_name(name):
  sensor = catalogue.get(name)
  assert sensor.units in contract.Units
  assert sensor.statistics_key
  if sensor.kind in ('optical', 'multispectral'):
    common = [band.common_name for band in sensor.bands]
    assert None not in common
    assert len(set(common)) == len(common)


def test_sentinel2_wavelengths_rise_and_do_not_overlap_where_names_do_not():
  bands = {b.name: b for b in catalogue.get('sentinel2_l1c').bands}
  centres = [b.wavelength_nm for b in bands.values()]
  assert centres == sorted(centres)
  # The broad near infrared covers B07's red edge and B8A, as on the satellite.
  nir, narrow = bands['B08'], bands['B8A']
  assert abs(nir.wavelength_nm - narrow.wavelength_nm) < nir.bandwidth_nm / 2


def test_an_unknown_sensor_is_an_error_that_suggests():
  with pytest.raises(ValueError, match='Did you mean "sentinel2_l1c"'):
    catalogue.get('sentinel2_l1b')
  with pytest.raises(ValueError, match='tell yours by RSFM_SENSORS'):
    catalogue.get('cubesat')


def own(**changes):
  """A contract as a user writes it."""
  bands = [
    {'name': 'blue', 'units': 'dn', 'common_name': 'blue'},
    {'name': 'pan', 'units': 'dn', 'wavelength_nm': 650.0},
  ]
  return {'name': 'cubesat', 'kind': 'optical', 'bands': bands} | changes


@pytest.fixture
def told(tmp_path, monkeypatch):
  """Writes contracts to files of their own and tells the catalogue."""

  def tell(*files):
    paths = [tmp_path / f'{i}.json' for i in range(len(files))]
    for path, value in zip(paths, files, strict=True):
      path.write_text(value if isinstance(value, str) else json.dumps(value))
    monkeypatch.setenv('RSFM_SENSORS', os.pathsep.join(map(str, paths)))

  return tell


def test_sensors_of_ones_own_are_as_good_as_the_others(told):
  told(own(scale=0.01), [own(name='b'), own(name='c', gsd_m=3.0)])
  assert catalogue.names()[-3:] == ('cubesat', 'b', 'c')
  sensor = catalogue.get('cubesat')
  assert sensor.band_names == ('blue', 'pan') and sensor.scale == 0.01
  assert sensor.units == contract.Units.DN
  assert catalogue.get('c').gsd_m == 3.0


@pytest.mark.parametrize(
  'value, words',
  [
    ('{', 'not readable as JSON'),
    (
      own(kind='radar'),
      "kind='radar' is not allowed; choose one of .'optical'",
    ),
    (
      own(bands=[{'name': 'b', 'units': 'DN'}]),
      "units of b='DN' is not allowed; choose one of .'dn'",
    ),
    (own(bands=[{'name': 'b'}]), "b .*'units' is missing"),
    (own(bands=[]), 'no bands'),
    (own(name='my cube'), "name='my cube'"),
    (own(name='opt'), 'opt is a sensor already'),
    ([own(), own()], 'cubesat is a sensor already'),
    (own(colour='red'), 'colour'),
    ({'kind': 'optical'}, "'bands' is missing"),
    (3, 'not a sensor contract'),
  ],
)
def test_a_bad_contract_is_named_with_its_file(told, value, words):
  told(value)
  with pytest.raises(ValueError, match=f'(?s)0.json.*{words}'):
    catalogue.names()


def test_a_file_that_is_not_there_is_named(monkeypatch):
  monkeypatch.setenv('RSFM_SENSORS', 'nowhere.json')
  with pytest.raises(ValueError, match='RSFM_SENSORS: nowhere.json'):
    catalogue.get('cubesat')
  assert catalogue.get('opt').name == 'opt'  # Modules ask on their import.


def test_an_unknown_band_is_an_error_that_suggests():
  with pytest.raises(ValueError, match='B8A'):
    catalogue.get('sentinel2_l1c').select(('B8',))
