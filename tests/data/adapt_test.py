"""Stored bands reach the model by name, in its units, nodata never."""

import itertools

import numpy as np
import pytest

from rsfm_jax.data import adapt
from rsfm_jax.data import augment
from rsfm_jax.data import store as stores
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import statistics as stats

OPT = catalogue.get('opt')
MS = catalogue.get('ms')
SAR = catalogue.get('sar_l1')


def _plain(bands):
  """Statistics that change nothing: mean 0, std 1."""
  zeros, ones = (0.0,) * bands, (1.0,) * bands
  return stats.Statistics(
    mean=zeros,
    std=ones,
    percentiles={},
    minimum=zeros,
    maximum=ones,
    count=(1,) * bands,
  )


def _pack(folder, sensors, *samples, **fields):
  by_name = {sensor.name: sensor for sensor in sensors}
  with stores.StoreWriter(folder, sensors=by_name) as writer:
    for i, arrays in enumerate(samples):
      writer.add(arrays, id=str(i), **fields)
  return stores.Store(folder)


def _read(store, want, size=None, *, statistics=None, **kwargs):
  """The first sample, whole."""
  if statistics is None:
    statistics = _plain(len(want.bands))
  adapter = adapt.Adapter.of(store, want, statistics=statistics, **kwargs)
  record = store.read(0)
  return adapter(record, augment.Box(0, 0, *adapter.shape(record)), size)


def _sar(channels=8):
  rng = np.random.default_rng(0)
  return {
    'sar_l1/image': rng.normal(size=(8, 8, channels)).astype(np.float32),
    'sar_l1/scene_scale': np.float32(4),
  }


def test_normalised_by_the_statistics_of_the_run(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
  store = _pack(tmp_path, [OPT], {'opt/image': image})
  merged = adapt.merged_statistics(OPT, (store,))
  out = _read(store, OPT, statistics=merged)
  np.testing.assert_allclose(out['image'].mean((0, 1)), 0, atol=1e-5)
  np.testing.assert_allclose(out['image'].std((0, 1)), 1, atol=1e-5)
  np.testing.assert_array_equal(out['image'], stats.normalise(image, merged))


def test_complex_sar_is_divided_by_the_scale_of_its_scene(tmp_path):
  store = _pack(tmp_path, [SAR], _sar())
  out = _read(store, SAR)
  np.testing.assert_array_equal(out['image'], _sar()['sar_l1/image'] / 4)
  with pytest.raises(ValueError, match='complex SAR is only cropped'):
    _read(store, SAR, 4)


def test_absent_polarisations_are_zero_and_flagged(tmp_path):
  narrow = SAR.select(('VV_I', 'VV_Q'))
  by_contract = _pack(tmp_path / 'contract', [narrow], _sar(2))
  by_sample = _pack(
    tmp_path / 'sample', [SAR], _sar(), bands={'sar_l1': ['VV_I', 'VV_Q']}
  )
  expected = np.array([name.startswith('VV') for name in SAR.band_names])
  for store in (by_contract, by_sample):
    out = _read(store, SAR)
    np.testing.assert_array_equal(out['band_valid'], expected)
    assert (out['image'][..., ~expected] == 0).all()
    assert (out['image'][..., expected] != 0).all()


def test_bands_are_matched_by_name_and_converted(tmp_path):
  level2 = catalogue.get('sentinel2_l2a')
  image = np.zeros((8, 8, len(level2.bands)), np.uint16)
  for value, band in enumerate(('B02', 'B03', 'B04', 'B08'), start=1):
    image[..., level2.band_names.index(band)] = 1000 * value
  store = _pack(tmp_path, [level2], {'sentinel2_l2a/image': image})
  for size in (None, 4):
    out = _read(store, MS, size)
    np.testing.assert_allclose(
      out['image'][1, 2], [0.1, 0.2, 0.3, 0.4], rtol=1e-5
    )
  with pytest.raises(ValueError, match='stored in dn'):
    adapt.merged_statistics(MS, (store,))


def test_missing_bands_follow_the_policy(tmp_path):
  part = MS.select(('green', 'blue', 'red'))
  image = np.broadcast_to(np.float32([2, 1, 3]), (4, 4, 3))
  store = _pack(tmp_path, [part], {'ms/image': image})
  with pytest.raises(ValueError, match='nir'):
    _read(store, MS)
  out = _read(store, MS, missing_bands='mask')
  assert out['band_valid'].tolist() == [True, True, True, False]
  np.testing.assert_array_equal(out['image'][0, 0], [1, 2, 3, 0])


def test_a_masked_band_is_zero_after_normalisation_too(tmp_path):
  part = MS.select(('blue', 'green', 'red'))
  store = _pack(tmp_path, [part], {'ms/image': np.ones((4, 4, 3), np.float32)})
  shifted = stats.Statistics(
    mean=(5.0,) * 4,
    std=(2.0,) * 4,
    percentiles={},
    minimum=(0.0,) * 4,
    maximum=(9.0,) * 4,
    count=(1,) * 4,
  )
  out = _read(store, MS, statistics=shifted, missing_bands='mask')
  np.testing.assert_array_equal(out['image'][0, 0], [-2, -2, -2, 0])


@pytest.mark.parametrize('size', [None, 8, 10, 24, 40])
def test_nan_under_nodata_changes_no_bit(tmp_path, size):
  # Bicubic weights at a third are exactly zero in places: 0 * NaN is NaN.
  rng = np.random.default_rng(0)
  valid = np.ones((24, 24), bool)
  valid[[3, 12, 13], [4, 11, 20]] = False
  image = rng.normal(size=(24, 24, 4)).astype(np.float32)
  outs = []
  for name, fill in (('nan', np.nan), ('inf', np.inf), ('zero', 0)):
    filled = np.where(valid[..., None], image, np.float32(fill))
    sample = {'ms/image': filled, 'ms/valid': valid}
    store = _pack(tmp_path / name, [MS], sample)
    outs.append(_read(store, MS, size, statistics=store.statistics_of('ms')))
  for other in outs[1:]:
    for key, array in outs[0].items():
      np.testing.assert_array_equal(other[key], array)
  assert np.isfinite(outs[0]['image']).all()
  invalid = ~outs[0]['pixel_valid']
  assert invalid.any() and not outs[0]['image'][invalid].any()


def test_nan_that_nobody_declared_is_masked_too(tmp_path):
  image = np.ones((8, 8, 4), np.float32)
  image[2, 3, 1] = np.nan
  out = _read(_pack(tmp_path, [MS], {'ms/image': image}), MS)
  expected = np.ones((8, 8), bool)
  expected[2, 3] = False
  np.testing.assert_array_equal(out['pixel_valid'], expected)
  assert (out['image'][2, 3] == 0).all()


def test_two_stores_of_different_statistics_merge_exactly(tmp_path):
  rng = np.random.default_rng(0)
  images = [rng.integers(0, high, (8, 8, 3), np.uint8) for high in (99, 256)]
  pair = tuple(
    _pack(tmp_path / str(i), [OPT], *[{'opt/image': image}] * (2 - i))
    for i, image in enumerate(images)
  )
  whole = stats.Accumulator(OPT.band_names)
  whole.update(np.stack([images[0], images[0], images[1]]))
  merged, expected = adapt.merged_statistics(OPT, pair), whole.result()
  np.testing.assert_allclose(merged.mean, expected.mean, rtol=1e-12)
  np.testing.assert_allclose(merged.std, expected.std, rtol=1e-12)
  assert merged.percentiles == expected.percentiles
  assert merged.count == expected.count == (192,) * 3


def test_statistics_are_those_of_the_splits_that_are_read(tmp_path):
  rng = np.random.default_rng(0)
  images = {
    (store, split): rng.integers(0, high, (8, 8, 3), np.uint8)
    for high, (store, split) in enumerate(
      itertools.product('ab', ('train', 'test')), start=50
    )
  }
  pair = []
  for name in 'ab':
    with stores.StoreWriter(tmp_path / name, sensors={'opt': OPT}) as writer:
      for split in ('train', 'test'):
        image = {'opt/image': images[name, split]}
        writer.add(image, id=split, split=split)
    pair.append(stores.Store(tmp_path / name))
  found = adapt.merged_statistics(OPT, tuple(pair), splits=('train', None))
  used = [v for k, v in images.items() if k != ('a', 'test')]
  expected = np.concatenate(used).reshape(-1, 3)
  np.testing.assert_allclose(found.mean, expected.mean(0), rtol=1e-12)
  np.testing.assert_allclose(found.std, expected.std(0), rtol=1e-12)
  assert found.count == (3 * 64,) * 3


def test_merged_statistics_of_stores_with_other_bands(tmp_path):
  part = MS.select(('red', 'blue'))
  a = np.full((4, 4, 2), 0.5, np.float32)
  b = np.full((4, 4, 4), 0.1, np.float32)
  pair = (
    _pack(tmp_path / 'a', [part], {'ms/image': a}),
    _pack(tmp_path / 'b', [MS], {'ms/image': b}),
  )
  merged = adapt.merged_statistics(MS, pair, missing_bands='mask')
  np.testing.assert_allclose(merged.mean, [0.3, 0.1, 0.3, 0.1], rtol=1e-6)
  assert merged.count == (32, 16, 32, 16)


def test_what_cannot_feed_the_model_is_refused(tmp_path):
  store = _pack(
    tmp_path,
    [OPT, MS],
    {'opt/image': np.zeros((4, 4, 3), np.uint8)},
  )
  with pytest.raises(ValueError, match="'sar_l1' is not allowed"):
    adapt.Adapter.of(store, SAR, statistics=None)
  with pytest.raises(ValueError, match='statistics of its 3 bands'):
    adapt.Adapter.of(store, OPT, statistics=_plain(4))
  with pytest.raises(ValueError, match='a sample has no ms'):
    _read(store, MS)


def test_groups_of_bands_are_cut_out_of_a_store_of_whole_sensors(tmp_path):
  level2, radar = map(catalogue.get, ('sentinel2_skysense', 'sentinel1_grd'))
  optical = np.zeros((8, 8, 10), np.uint16)
  optical[:] = np.arange(1, 11)
  sample = {
    'sentinel2_skysense/image': optical,
    'sentinel1_grd/image': np.full((8, 8, 2), [-5, -9], np.float32),
  }
  store = _pack(tmp_path / 'both', [level2, radar], sample)
  for name in ('s2_rgb', 's2_rededge', 's2_nir', 's2_swir'):
    want = catalogue.get(name)
    places = [1 + level2.band_names.index(b) for b in want.band_names]
    out = _read(store, want)
    np.testing.assert_array_equal(out['image'][0, 0], places)
    merged = adapt.merged_statistics(want, (store,))
    np.testing.assert_allclose(merged.mean, places)
  for name, value in (('s1_vv', -5), ('s1_vh', -9)):
    out = _read(store, catalogue.get(name))
    np.testing.assert_array_equal(out['image'][3, 3], [value])
  with pytest.raises(ValueError, match='landsat8'):
    _read(store, catalogue.get('landsat8'))
  # Two that would do: nobody chooses for the user.
  level1 = catalogue.get('sentinel2_l1c')
  sample = {
    'sentinel2_skysense/image': optical,
    'sentinel2_l1c/image': np.ones((8, 8, 13), np.uint16),
  }
  store = _pack(tmp_path / 'two', [level2, level1], sample)
  with pytest.raises(ValueError, match='s2_rgb'):
    _read(store, catalogue.get('s2_rgb'))


def test_a_store_feeds_sensors_whose_bands_and_units_it_has(tmp_path):
  level2 = catalogue.get('sentinel2_l2a')
  image = np.ones((4, 4, 12), np.uint16)
  store = _pack(tmp_path, [level2], {'sentinel2_l2a/image': image})
  fed = [
    name
    for name in ('s2_rgb', 'ms', 'opt', 's1_vv', 'sentinel2_l1c')
    if adapt.feeds(store, catalogue.get(name))
  ]
  assert fed == ['s2_rgb']
