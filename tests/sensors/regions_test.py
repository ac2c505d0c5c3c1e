import math

import numpy as np
import pytest

from rsfm_jax.sensors import regions

# Prototypes of a trained model are stored by these numbers.
GOLDEN = (1499, 2177)


def test_regions_are_the_same_on_every_machine():
  assert regions.region_of([8.54, 47.37], 4096) == GOLDEN[0]
  assert regions.region_of((-0.1278, 51.5074), 4096) == GOLDEN[1]


def test_neighbours_share_a_region_and_far_places_do_not():
  here = regions.region_of([8.54, 47.37], 4096)
  assert regions.region_of([8.541, 47.371], 4096) == here
  assert regions.region_of([9.60, 47.37], 4096) != here
  assert regions.region_of([8.54, 48.20], 4096) != here


@pytest.mark.parametrize('latitude', [0.0, 47.0, -33.0, 70.0])
def test_cells_are_about_65_km_wide(latitude):
  longitudes = np.linspace(-180, 180, 20_000, endpoint=False)
  cells = {regions.cell_of((x, latitude)) for x in longitudes}
  around = 40_030.2 * math.cos(math.radians(latitude))
  np.testing.assert_allclose(around / len(cells), 65, rtol=0.02)


def test_all_regions_are_used_about_alike():
  rng = np.random.default_rng(0)
  places = zip(
    rng.uniform(-180, 180, 20_000),
    np.degrees(np.arcsin(rng.uniform(-1, 1, 20_000))),
  )
  counts = np.bincount([regions.region_of(p, 16) for p in places])
  assert len(counts) == 16
  np.testing.assert_allclose(counts, 20_000 / 16, rtol=0.12)


@pytest.mark.parametrize(
  'lonlat',
  [None, [], [181, 0], [0, 91], [math.nan, 0], [0, math.inf], [None, 1]],
)
def test_places_that_are_unknown_have_no_region(lonlat):
  assert regions.region_of(lonlat, 4) == regions.UNKNOWN == -1


def test_poles_and_the_date_line_lie_on_earth():
  for lonlat in ([180, 10], [-180, -10], [0, 90], [0, -90]):
    assert 0 <= regions.region_of(lonlat, 7) < 7
  assert regions.cell_of([180, 10]) == regions.cell_of([-180, 10])


def test_no_regions_are_an_error():
  with pytest.raises(ValueError, match='regions=0'):
    regions.region_of([0, 0], 0)
