"""The fingerprint on real scenes: EuroSAT, which it has never seen, and OSCD,
each city judged by a reference made without it."""

import importlib.util
import itertools
import json
import pathlib

import h5py
import numpy as np
import pytest
import rasterio

from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import fingerprint
from rsfm_jax.sensors import units

L1C = catalogue.get('sentinel2_l1c')
REFLECTANCE = units.converted(L1C, 'reflectance')
ROOT = pathlib.Path(__file__).parents[2]
CITIES = ('abudhabi', 'beihai', 'beirut', 'cupertino', 'nantes', 'rennes')
PAIRS = list(itertools.combinations(L1C.band_names, 2))

# What GEO-Bench's EuroSAT really stores under each name (geo-bench issue 28).
SHIFTED = {
  'B8A': 'B09',
  'B09': 'B10',
  'B10': 'B11',
  'B11': 'B12',
  'B12': 'B8A',
}
SHIFTED_FINDINGS = {f'slot {s} looks like {b}' for s, b in SHIFTED.items()}


@pytest.fixture(scope='module')
def locations(shared) -> dict[str, list[np.ndarray]]:
  """Location -> scenes [H, W, 13], as the reference was made from."""
  path = ROOT / 'data' / 'prepare' / 'fingerprint_reference.py'
  spec = importlib.util.spec_from_file_location(path.stem, path)
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)
  found: dict[str, list[np.ndarray]] = {}
  for location, image in script.scenes(shared / 'data'):
    found.setdefault(location, []).append(image)
  return found


@pytest.fixture(scope='module')
def tiffs(shared) -> dict[str, np.ndarray]:
  """The original EuroSAT patches, B8A moved from the end to its place."""
  stored = (*L1C.band_names[:8], 'B09', 'B10', 'B11', 'B12', 'B8A')
  order = [stored.index(band) for band in L1C.band_names]
  found = {}
  for path in sorted((shared / 'data/eurosat_ms_samples').glob('*/*.tif')):
    with rasterio.open(path) as file:
      found[path.stem] = file.read().transpose(1, 2, 0)[..., order]
  return found


@pytest.fixture(scope='module')
def hdf5(shared) -> dict[str, np.ndarray]:
  """GEO-Bench's EuroSAT, each dataset taken at its word ('08A - Vege...')."""
  found = {}
  for path in sorted((shared / 'data/eurosat_ms_samples').glob('*/*.hdf5')):
    with h5py.File(path) as file:
      by_name = {key.split(' ')[0].zfill(2): key for key in file}
      keys = [by_name[b[1:].replace('8A', '08A')] for b in L1C.band_names]
      found[path.stem] = np.stack([file[key][()] for key in keys], axis=-1)
  return found


def without(locations, held_out: str) -> fingerprint.Reference:
  rest = {k: v for k, v in locations.items() if k != held_out}
  assert len(rest) == len(locations) - 1
  return fingerprint.build(rest, L1C)


def swapped(image: np.ndarray, first: str, second: str) -> np.ndarray:
  order = list(L1C.band_names)
  i, j = order.index(first), order.index(second)
  order[i], order[j] = second, first
  return image[..., [L1C.band_names.index(band) for band in order]]


def findings(pair: tuple[str, str]) -> set[str]:
  return {f'slot {a} looks like {b}' for a, b in (pair, pair[::-1])}


def test_the_shifted_slots_of_geobench_eurosat_are_named(hdf5):
  assert len(hdf5) == 5
  found = fingerprint.verdict(list(hdf5.values()), L1C)
  assert found.ok is False
  assert set(found.findings) == SHIFTED_FINDINGS
  # By slot, in the order a reader goes through the bands.
  assert [f.split()[1] for f in found.findings] == list(SHIFTED)


def test_a_single_chip_already_names_the_shifted_slots(hdf5):
  exact = 0
  for image in hdf5.values():
    found = fingerprint.verdict([image], L1C)
    assert set(SHIFTED) <= {f.split()[1] for f in found.findings}
    exact += set(found.findings) == SHIFTED_FINDINGS
  # id_0001 alone, a lush meadow in moist air, also has B01 and B02 accused.
  assert exact == 4


def test_geobench_eurosat_passes_once_repaired(hdf5):
  slot = {held: slot for slot, held in SHIFTED.items()}
  order = [L1C.band_names.index(slot.get(b, b)) for b in L1C.band_names]
  repaired = [image[..., order] for image in hdf5.values()]
  assert fingerprint.verdict(repaired, L1C).ok is True


def test_the_eurosat_tiffs_pass_together_and_one_by_one(tiffs):
  assert len(tiffs) == 3
  assert fingerprint.verdict(list(tiffs.values()), L1C).ok is True
  for image in tiffs.values():
    assert fingerprint.verdict([image], L1C).ok is True


def test_the_file_order_of_the_tiffs_taken_as_catalogue_order_is_named(tiffs):
  # The classic mistake: thirteen bands, so it must be the usual order.
  stored = [*range(8), 9, 10, 11, 12, 8]
  images = [image[..., stored] for image in tiffs.values()]
  found = fingerprint.verdict(images, L1C)
  assert set(found.findings) == SHIFTED_FINDINGS


def test_eurosat_is_not_in_the_reference():
  sources = ' '.join(fingerprint.load('sentinel2_l1c').sources).lower()
  assert 'oscd' in sources and 'eurosat' not in sources


def test_the_shipped_reference_is_what_the_script_makes(locations):
  made = fingerprint.build(locations, L1C).to_json()
  shipped = fingerprint.load('sentinel2_l1c').to_json()
  assert made['bands'] == shipped['bands']
  for key in ('mean', 'std', 'correlation'):
    np.testing.assert_allclose(made[key], shipped[key], atol=2e-5)


@pytest.mark.parametrize('city', CITIES)
def test_a_correct_city_passes_without_itself_in_the_reference(locations, city):
  reference = without(locations, f'OSCD {city}')
  for image in locations[f'OSCD {city}']:
    assert fingerprint.verdict([image], L1C, reference=reference).ok is True


@pytest.mark.parametrize('city', ['beirut', 'rennes'])
def test_any_two_swapped_bands_of_a_city_are_both_named(locations, city):
  reference = without(locations, f'OSCD {city}')
  image = locations[f'OSCD {city}'][0][::4, ::4]
  wrong = [
    pair
    for pair in PAIRS
    if set(
      fingerprint.verdict(
        [swapped(image, *pair)], L1C, reference=reference
      ).findings
    )
    != findings(pair)
  ]
  assert not wrong


def test_water_alone_passes(locations):
  for image in locations['SEN12MS-CR 135']:
    assert fingerprint.verdict([image], L1C).ok is True


def test_reflectance_is_judged_like_dn(locations):
  image = locations['OSCD nantes'][0]
  mixed = swapped(image, 'B03', 'B11')
  for stored in (image, mixed):
    as_dn = fingerprint.verdict([stored], L1C)
    reflectance = units.convert(stored, source=L1C, target='reflectance')
    as_reflectance = fingerprint.verdict([reflectance], REFLECTANCE)
    assert as_reflectance.findings == as_dn.findings
    np.testing.assert_allclose(
      as_reflectance.distance, as_dn.distance, rtol=1e-4
    )


def test_a_subset_of_the_bands_is_judged_too(locations):
  sensor = L1C.select(('B8A', 'B02', 'B04', 'B11'))
  rows = [L1C.band_names.index(band) for band in sensor.band_names]
  image = locations['OSCD rennes'][1]
  assert fingerprint.verdict([image[..., rows]], sensor).ok is True
  mixed = swapped(image, 'B04', 'B11')[..., rows]
  found = fingerprint.verdict([mixed], sensor)
  assert set(found.findings) == findings(('B04', 'B11'))


def test_an_offset_left_in_is_far_from_every_reference(locations):
  for images in locations.values():
    shifted = [image.astype(np.int32) + 1000 for image in images]
    found = fingerprint.verdict(shifted, L1C)
    assert found.ok is False
    assert 'far from every reference' in found.findings[0]
    assert '04.00' in found.findings[0]


def test_nodata_and_nan_pixels_change_nothing(locations):
  image = locations['OSCD bordeaux'][0].astype(np.float32)
  rows = np.arange(len(image)) < 40
  clean = fingerprint.verdict([image[~rows]], L1C)
  for fill in (0.0, np.nan):
    dirty = np.where(rows[:, None, None], np.float32(fill), image)
    assert fingerprint.verdict([dirty], L1C) == clean


def test_without_a_reference_or_a_pixel_nothing_is_claimed():
  dem = catalogue.get('dem')
  found = fingerprint.verdict([np.ones((4, 4, 1))], dem)
  assert found.ok is None and 'dem' in found.findings[0]
  empty = fingerprint.verdict([np.zeros((4, 4, 13))], L1C)
  assert empty.ok is None and 'no valid pixel' in empty.findings[0]


def test_a_reference_survives_json_and_is_a_correlation():
  reference = fingerprint.load('sentinel2_l1c')
  text = json.dumps(reference.to_json())
  again = fingerprint.Reference.from_json(json.loads(text))
  assert again.bands == L1C.band_names
  np.testing.assert_array_equal(again.correlation, reference.correlation)
  np.testing.assert_allclose(np.diag(reference.correlation), 1)
  np.testing.assert_allclose(reference.correlation, reference.correlation.T)
  with pytest.raises(ValueError, match='not a fingerprint reference'):
    fingerprint.Reference.from_json({'sensor': 'x'})


def test_the_search_finds_the_optimum_of_every_permutation():
  # Oracle: all 5040 assignments of seven bands.
  sensor = L1C.select(L1C.band_names[3:10])
  rng = np.random.default_rng(0)
  reference = fingerprint.load('sentinel2_l1c')
  for _ in range(3):
    log = rng.normal(-2, 1, (50, 7))
    moments = fingerprint.Moments(log.mean(0), log.T @ log / 50)
    problem = fingerprint._Problem(moments, reference, sensor.bands)
    everything = np.asarray(list(itertools.permutations(range(7))))
    costs = problem.costs(everything)
    best, cost = problem.solve()
    np.testing.assert_allclose(cost, costs.min(), rtol=1e-9)
    np.testing.assert_array_equal(best, everything[costs.argmin()])
