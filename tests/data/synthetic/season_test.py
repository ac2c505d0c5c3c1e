import numpy as np
import pytest

from rsfm_jax.data.synthetic import materials
from rsfm_jax.data.synthetic import season

_EQUINOX, _JUNE, _DECEMBER = 80, 172, 355


def _greenness(cycle, day, latitude=48.0):
  return season.greenness(
    np.array([cycle]), day, latitude=latitude, delay=np.zeros(1)
  )[0]


def test_sun_at_noon_stands_at_the_height_that_latitude_says():
  for latitude in (0.0, 30.0, 50.0):
    sun = season.sun(latitude, _EQUINOX, hour=12)
    np.testing.assert_allclose(
      np.degrees(sun.elevation), 90 - latitude, atol=1.5
    )
  summer = np.degrees(season.sun(50, _JUNE, hour=12).elevation)
  np.testing.assert_allclose(summer, 90 - 50 + 23.44, atol=0.5)


def test_sun_is_in_the_south_east_in_the_morning_and_north_in_the_south():
  morning = np.degrees(season.sun(50, _EQUINOX, hour=10.5).azimuth)
  assert 90 < morning < 180
  afternoon = np.degrees(season.sun(50, _EQUINOX, hour=15).azimuth) % 360
  assert 180 < afternoon < 270
  assert abs(np.degrees(season.sun(-50, _EQUINOX, hour=12).azimuth)) < 5


def test_summer_is_greener_and_half_a_year_later_in_the_south():
  for cycle in (
    materials.Cycle.DECIDUOUS,
    materials.Cycle.SUMMER_CROP,
    materials.Cycle.GRASS,
  ):
    assert _greenness(cycle, 190) > _greenness(cycle, 10) + 0.3
    assert _greenness(cycle, 190, -48) < _greenness(cycle, 10, -48) - 0.2


def test_winter_crops_peak_before_summer_crops():
  days = np.arange(365)
  peak = {
    cycle: np.argmax([_greenness(cycle, d) for d in days])
    for cycle in (materials.Cycle.WINTER_CROP, materials.Cycle.SUMMER_CROP)
  }
  early, late = peak.values()
  assert 100 < early < 160 < 190 < late < 230


def test_the_tropics_have_less_of_a_year():
  cycle = materials.Cycle.DECIDUOUS
  swing = {
    latitude: _greenness(cycle, 200, latitude) - _greenness(cycle, 10, latitude)
    for latitude in (3, 48)
  }
  assert swing[3] < 0.2 * swing[48]


@pytest.mark.parametrize('cycle', list(materials.Cycle))
def test_greenness_is_a_share_and_continuous_over_new_year(cycle):
  values = np.array([_greenness(cycle, d) for d in range(0, 731)])
  assert values.min() >= 0 and values.max() <= 1
  assert np.abs(np.diff(values)).max() < 0.06
  np.testing.assert_allclose(values[0], values[365], atol=1e-5)
