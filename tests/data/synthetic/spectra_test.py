import dataclasses

import numpy as np
import pytest

from rsfm_jax.data.synthetic import spectra
from rsfm_jax.sensors import catalogue


def _reflectance(name: str) -> dict[str, float]:
  """Of an endmember, by Sentinel-2 band name."""
  sensor = catalogue.get('sentinel2_l2a')
  row = spectra.integrate(sensor.bands)[spectra.ENDMEMBERS.index(name)]
  return dict(zip(sensor.band_names, row, strict=True))


def test_vegetation_has_a_red_edge_and_a_green_peak():
  for name in ('leaf', 'needle'):
    r = _reflectance(name)
    assert r['B08'] > 5 * r['B04']
    assert r['B03'] > r['B04'] and r['B03'] > r['B02']
    assert r['B04'] < r['B05'] < r['B06'] < r['B08']
    assert r['B12'] < r['B11'] < r['B08']  # Leaf water.


def test_water_is_darker_in_the_near_infrared_than_in_the_visible():
  for name in ('water', 'silt'):
    r = _reflectance(name)
    assert r['B08'] < 0.06 and r['B08'] < 0.5 * r['B03']
    assert r['B11'] < 0.01
  assert _reflectance('silt')['B04'] > 2 * _reflectance('water')['B04']


def test_snow_is_bright_and_then_dark():
  r = _reflectance('snow')
  assert min(r['B02'], r['B03'], r['B04']) > 0.85
  assert r['B11'] < 0.15 and r['B12'] < 0.1


def test_soil_rises_with_wavelength():
  r = _reflectance('soil')
  order = [r[b] for b in ('B02', 'B03', 'B04', 'B08', 'B11')]
  assert order == sorted(order)


def test_all_reflectances_are_physical():
  table = spectra.integrate(catalogue.get('sentinel2_l1c').bands)
  assert table.shape == (len(spectra.ENDMEMBERS), 13)
  assert table.min() >= 0 and table.max() <= 1


def test_a_narrow_band_reads_the_table_and_a_wide_one_averages():
  band = catalogue.get('ms').bands[0]
  narrow = dataclasses.replace(band, wavelength_nm=740.0, bandwidth_nm=2.0)
  wide = dataclasses.replace(narrow, bandwidth_nm=120.0)
  leaf = spectra.ENDMEMBERS.index('leaf')
  values = spectra.integrate((narrow, wide))[leaf]
  np.testing.assert_allclose(values[0], 0.33, atol=0.005)
  assert values[1] < values[0]  # The red side pulls the mean down.


def test_cameras_named_by_colour_have_nominal_wavelengths():
  centre, _ = spectra.wavelengths(catalogue.get('naip').bands)
  red, green, blue, nir = centre
  assert blue < green < red < nir


def test_a_band_without_a_place_in_the_spectrum_is_an_error():
  band = dataclasses.replace(
    catalogue.get('opt').bands[0], name='X', common_name='pan'
  )
  with pytest.raises(ValueError, match="'X'.*wavelength_nm.*'pan'"):
    spectra.integrate((band,))
