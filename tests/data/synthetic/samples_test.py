import dataclasses
import time

import numpy as np
import pytest

from rsfm_jax.data.synthetic import materials
from rsfm_jax.data.synthetic import objects
from rsfm_jax.data.synthetic import samples
from rsfm_jax.data.synthetic import scene
from rsfm_jax.sensors import catalogue


def _equal(a, b) -> bool:
  return a.fields == b.fields and all(
    np.array_equal(a.arrays[name], b.arrays[name]) for name in a.arrays
  )


def test_records_follow_the_contract(options):
  sample = samples.make(options, 7)
  arrays = sample.arrays
  expected = {
    'opt/image': ((64, 64, 3), np.uint8),
    'ms/image': ((64, 64, 4), np.float32),
    'sar_l1/image': ((64, 64, 8), np.float32),
    'sar_l2/image': ((64, 64, 1), np.float32),
    'sar_l1/scene_scale': ((), np.float32),
    'landcover': ((64, 64), np.uint8),
    'height': ((64, 64), np.float32),
    'boxes': ((64, 7), np.float32),
  }
  assert {k: (v.shape, v.dtype.type) for k, v in arrays.items()} == expected
  assert all(np.isfinite(v).all() for v in arrays.values())
  assert sample.fields['split'] in ('train', 'val', 'test')
  assert sample.fields['label'] == 7 % len(scene.CLASSES)
  assert -180 <= sample.fields['lonlat'][0] <= 180
  assert -60 <= sample.fields['lonlat'][1] <= 65
  assert sample.fields['date'].startswith('2023-')


def test_a_sample_depends_on_seed_and_index_alone(options):
  together = samples.make_many(options, [4, 30, 11])
  alone = samples.make(options, 11)
  assert _equal(together[2], alone)
  other = samples.make(dataclasses.replace(options, seed=4), 11)
  assert not np.array_equal(
    other.arrays['opt/image'], alone.arrays['opt/image']
  )


def test_a_sensor_looks_the_same_whoever_else_looks(options):
  everyone = samples.make(options, 9).arrays
  for sensor in options.sensors:
    only = dataclasses.replace(options, sensors=(sensor,))
    name = f'{sensor.name}/image'
    np.testing.assert_array_equal(
      samples.make(only, 9).arrays[name], everyone[name]
    )


def test_amplitude_is_the_multilooked_complex_image(options):
  arrays = samples.make(options, 6).arrays
  slc = arrays['sar_l1/image']
  power = slc[..., 6] ** 2 + slc[..., 7] ** 2  # VV.
  by_hand = power[20:23, 40:43].mean()
  np.testing.assert_allclose(
    10 ** (arrays['sar_l2/image'][21, 41, 0] / 10), by_hand, rtol=1e-4
  )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
  a, b = a - a.mean(), b - b.mean()
  return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


@pytest.mark.parametrize('sensor', ['opt', 'ms', 'sar_l1', 'sar_l2'])
def test_all_sensors_see_the_shore_where_the_map_has_it(options, sensor):
  """Shifted by a pixel, every sensor agrees less with the water mask."""
  number = len(scene.CLASSES)
  shifts = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (2, 2), (-2, -2)]
  agreement = np.zeros(len(shifts))
  for k in range(24):
    arrays = samples.make(
      options, scene.CLASSES.index('lake') + k * number
    ).arrays
    water = arrays['landcover'] == materials.LandCover.WATER
    image = arrays[f'{sensor}/image'].astype(np.float64)
    if sensor == 'sar_l1':
      image = np.log((image**2).sum(-1, keepdims=True))
    band = image[4:-4, 4:-4, -1 if sensor == 'ms' else 0]  # ms: nir.
    for i, (dy, dx) in enumerate(shifts):
      moved = np.roll(water, (dy, dx), (0, 1))[4:-4, 4:-4]
      agreement[i] += abs(_correlation(band, moved)) / 24
  assert np.argmax(agreement) == 0, agreement
  assert agreement[0] > 0.3


def test_water_is_dark_in_radar_and_in_the_near_infrared(options):
  made = samples.make(options, scene.CLASSES.index('lake')).arrays
  water = made['landcover'] == materials.LandCover.WATER
  assert 0.1 < water.mean() < 0.95
  for name in ('ms/image', 'sar_l2/image'):
    last = made[name][..., -1]
    assert last[water].mean() < last[~water].mean()


def test_series_start_with_the_image_and_follow_the_year(options):
  dated = dataclasses.replace(options, dates=4, cloudiness=0.3)
  arrays = samples.make(dated, 0).arrays
  for name in ('opt', 'ms', 'sar_l1', 'sar_l2'):
    series = arrays[f'{name}/series']
    assert series.shape == (4, *arrays[f'{name}/image'].shape)
    np.testing.assert_array_equal(series[0], arrays[f'{name}/image'])
  np.testing.assert_array_equal(np.diff(arrays['days']), [91, 91, 91])
  assert arrays['clouds'].shape == (4, 64, 64)
  assert arrays['clouds'].max() <= 100
  assert len({arrays['opt/series'][k].tobytes() for k in range(4)}) == 4


def test_vegetation_follows_the_season_in_a_series(options):
  ms = dataclasses.replace(options, sensors=(catalogue.get('ms'),), dates=12)
  forest = scene.CLASSES.index('forest')
  swings = []
  for k in range(4):
    image = samples.make(ms, forest + 12 * k).arrays['ms/series']
    red, nir = image[..., 2], image[..., 3]
    index = ((nir - red) / (nir + red)).mean((1, 2))
    swings.append(np.ptp(index))
  assert max(swings) > 0.15


def test_pairs_hold_a_mask_of_changed_land_cover(options):
  paired = dataclasses.replace(options, pair='change')
  changed = 0
  for i in range(12):
    arrays = samples.make(paired, i).arrays
    np.testing.assert_array_equal(
      arrays['change'], arrays['landcover'] != arrays['landcover_after']
    )
    assert arrays['opt/after'].shape == arrays['opt/image'].shape
    assert arrays['boxes_after'].shape == arrays['boxes'].shape
    changed += arrays['change'].any()
  assert changed > 3


def test_sequences_hold_moving_pixels_and_tracks(options):
  moving = dataclasses.replace(options, frames=5)
  index = scene.CLASSES.index('highway')
  arrays = samples.make(moving, index).arrays
  frames = arrays['opt/sequence']
  assert frames.shape == (5, 64, 64, 3) and 'sar_l1/sequence' not in arrays
  np.testing.assert_array_equal(frames[0], arrays['opt/image'])
  assert arrays['tracks'].shape == (5, 64, 7)
  vehicles = arrays['tracks'][..., 5] == objects.Thing.VEHICLE
  assert vehicles[0].any()
  still = np.abs(frames[1].astype(int) - frames[0]).max(-1) < 8
  assert 0.5 < still.mean() < 1


def test_other_sensors_of_the_catalogue_can_look(options):
  names = ('sentinel2_l1c', 'landsat8', 'naip', 'sentinel1_grd', 'dem')
  sensors = tuple(catalogue.get(name) for name in names)
  arrays = samples.make(dataclasses.replace(options, sensors=sensors), 8).arrays
  for sensor in sensors:
    image = arrays[f'{sensor.name}/image']
    assert image.shape == (64, 64, len(sensor.bands))


_SKYSENSE = ('opt', 'sentinel2_skysense', 'sentinel1_grd')
_COARSE = {'sentinel2_skysense': 8, 'sentinel1_grd': 8}


@pytest.fixture(scope='module')
def skysense():
  """(options on one grid, options of coarse pixels) of the same scenes."""
  sensors = tuple(catalogue.get(name) for name in _SKYSENSE)
  fine = samples.Options(sensors=sensors, dates=3, cloudiness=0.4, seed=3)
  return fine, dataclasses.replace(fine, coarse=_COARSE)


def test_coarse_sensors_alone_have_a_series(skysense):
  arrays = samples.make(skysense[1], 5).arrays
  expected = {
    'opt/image': ((64, 64, 3), np.uint8),
    'sentinel2_skysense/image': ((8, 8, 10), np.uint16),
    'sentinel2_skysense/series': ((3, 8, 8, 10), np.uint16),
    'sentinel1_grd/image': ((8, 8, 2), np.float32),
    'sentinel1_grd/series': ((3, 8, 8, 2), np.float32),
    'days': ((3,), np.int32),
    'clouds': ((3, 8, 8), np.uint8),
    'landcover': ((64, 64), np.uint8),
    'height': ((64, 64), np.float32),
    'boxes': ((64, 7), np.float32),
  }
  assert {k: (v.shape, v.dtype.type) for k, v in arrays.items()} == expected


def _blocks(image):
  return image.reshape(8, 8, 8, 8, -1).mean((1, 3))


def test_coarse_pixels_are_means_of_the_same_scene(skysense):
  fine, coarse = (samples.make(options, 5).arrays for options in skysense)
  np.testing.assert_array_equal(coarse['opt/image'], fine['opt/image'])
  np.testing.assert_array_equal(coarse['days'], fine['days'])
  for k in range(3):
    dn = fine['sentinel2_skysense/series'][k].astype(np.float64)
    np.testing.assert_allclose(
      coarse['sentinel2_skysense/series'][k], _blocks(dn), atol=0.51
    )
    power = 10 ** (fine['sentinel1_grd/series'][k].astype(np.float64) / 10)
    np.testing.assert_allclose(
      coarse['sentinel1_grd/series'][k],
      10 * np.log10(_blocks(power)),
      atol=1e-3,
    )


def test_coarse_pixels_of_one_date_have_no_series(skysense):
  one = dataclasses.replace(skysense[1], dates=1, pair='change')
  arrays = samples.make(one, 5).arrays
  assert not any(name.endswith('/series') for name in arrays)
  assert arrays['sentinel1_grd/after'].shape == (8, 8, 2)


def test_names_of_the_land_cover_follow_its_codes():
  assert samples.LANDCOVER[materials.LandCover.BARE_SOIL] == 'bare_soil'
  assert len(samples.LANDCOVER) == len(materials.LandCover)


@pytest.mark.parametrize(
  'wrong',
  [
    {'size': 8},
    {'seed': -1},
    {'dates': 0},
    {'sensors': ()},
    {'coarse': {'ms': 7}},
  ],
)
def test_options_out_of_range_name_themselves(options, wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    dataclasses.replace(options, **wrong)


def test_an_unknown_pair_is_an_error(options):
  with pytest.raises(ValueError, match='pair.*chnge.*change'):
    dataclasses.replace(options, pair='chnge')


def test_throughput(options):
  """Measured 200 four-sensor samples/s on a core; a third must be left."""
  samples.make_many(options, range(12))
  start = time.process_time()
  samples.make_many(options, range(12, 60))
  assert 48 / (time.process_time() - start) > 70


def test_objects_are_added_as_far_as_there_is_room(options):
  plain = dataclasses.replace(options, sensors=options.sensors[:1])
  more = dataclasses.replace(plain, objects=6)
  index = scene.CLASSES.index('pasture')
  before, after = (samples.make(o, index) for o in (plain, more))
  boxes = [
    s.arrays['boxes'][s.arrays['boxes'][:, 5] >= 0] for s in (before, after)
  ]
  added = boxes[1][len(boxes[0]) :]
  assert np.array_equal(boxes[1][: len(boxes[0])], boxes[0])
  assert 2 <= len(added) <= 6
  things = {objects.Thing.BUILDING, objects.Thing.STORAGE_TANK}
  assert set(added[:, 5]) <= things
  assert (added[:, 2] >= 8).all() and (added[:, 2] <= 16).all()
  assert not np.array_equal(*(s.arrays['opt/image'] for s in (before, after)))
