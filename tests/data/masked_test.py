"""Records of which a part is hidden, and other values under the masks."""

import pickle

import numpy as np
import pytest

from rsfm_jax.data import adapt
from rsfm_jax.data import augment
from rsfm_jax.data import masked
from rsfm_jax.data import store as stores
from rsfm_jax.sensors import catalogue

MS, OPT = 'sentinel1_grd', 'opt'


def sample(seed=0):
  rng = np.random.default_rng(seed)
  series = rng.normal(-12, 3, (3, 8, 8, 2)).astype(np.float32)
  return {
    f'{OPT}/image': rng.integers(1, 255, (16, 16, 3), np.uint8),
    f'{MS}/image': series[0],
    f'{MS}/series': series,
    f'{MS}/series_valid': rng.random((3, 8, 8)) > 0.3,
    'landcover': np.zeros((8, 8), np.uint8),
  }


def test_nothing_hidden_is_the_same_sample():
  record = sample()
  found = masked.Mask()(record, 0)
  assert set(found) == set(record)
  for name, array in record.items():
    np.testing.assert_array_equal(found[name], array)


def test_a_sensor_is_gone_with_all_its_arrays():
  found = masked.Mask(sensors=(MS,))(sample(), 0)
  assert set(found) == {f'{OPT}/image', 'landcover'}


@pytest.mark.parametrize('fill', masked.FILLS)
def test_only_what_is_hidden_is_filled(fill):
  record = sample()
  mask = masked.Mask(bands={MS: (1,), OPT: (0, 2)}, pixels=0.5, fill=fill)
  found = mask(record, 3)
  np.testing.assert_array_equal(found[f'{MS}/band_valid'], [True, False])
  np.testing.assert_array_equal(found[f'{OPT}/band_valid'], [0, 1, 0])
  dated = found[f'{MS}/series_valid']
  assert (dated <= record[f'{MS}/series_valid']).all() and dated.any()
  before, after = record[f'{MS}/series'], found[f'{MS}/series']
  counts = dated[..., None] & found[f'{MS}/band_valid']
  np.testing.assert_array_equal(before[counts], after[counts])
  assert (before[~counts] != after[~counts]).all()
  if fill != 'noise':
    assert not np.isfinite(after[~counts]).any()
  image, valid = found[f'{OPT}/image'], found[f'{OPT}/valid']
  assert image.dtype == np.uint8 and 0.3 < valid.mean() < 0.7
  same = image == record[f'{OPT}/image']
  assert same[..., 1][valid].all() and same[..., [0, 2]].mean() < 0.1
  # The places are those of the sample, whatever lies there.
  kept = masked.Mask(pixels=0.5)(record, 3)[f'{OPT}/valid']
  np.testing.assert_array_equal(kept, valid)
  assert (masked.Mask(pixels=0.5)(record, 4)[f'{OPT}/valid'] != valid).any()


def test_a_store_is_masked_wherever_it_is_read(tmp_path):
  sensors = {name: catalogue.get(name) for name in (MS, OPT)}
  with stores.StoreWriter(tmp_path / 's', sensors=sensors) as writer:
    for i in range(4):
      writer.add(sample(i), id=str(i), split=('train', 'test')[i % 2])
  store = stores.Store(tmp_path / 's')
  hidden = masked.MaskedStore(store, masked.Mask(bands={OPT: (0,)}, fill='inf'))
  for one in (hidden.read(1), hidden.source('test')[0]):
    assert (one[f'{OPT}/image'][..., 0] == 255).all()
  assert (store.read(1)[f'{OPT}/image'][..., 0] < 255).any()
  source = pickle.loads(pickle.dumps(hidden.source('test')))
  np.testing.assert_array_equal(source.indices, [1, 3])
  # An absent band of NaN spoils no pixel of the others.
  found = []
  for fill in ('kept', *masked.FILLS):
    hidden = masked.MaskedStore(store, masked.Mask(bands={MS: (1,)}, fill=fill))
    adapter = adapt.Adapter.of(
      hidden, sensors[MS], statistics=store.statistics_of(MS)
    )
    record = hidden.read(0)
    del record[f'{MS}/series'], record[f'{MS}/series_valid']
    found.append(adapter(record, augment.Box(0, 0, 8, 8), 6))
  assert found[0]['pixel_valid'].all() and not found[0]['band_valid'][1]
  for other in found[1:]:
    for name, array in found[0].items():
      np.testing.assert_array_equal(other[name], array)
