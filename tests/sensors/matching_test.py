"""Bands find each other by name; what is missing is said."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import matching

L1C = catalogue.get('sentinel2_l1c')
L2A = catalogue.get('sentinel2_l2a')
SKYSENSE = catalogue.get('sentinel2_skysense')
SAR_L1 = catalogue.get('sar_l1')


def numbered(sensor) -> np.ndarray:
  """Channel c holds c + 1 everywhere. [2, 2, C]"""
  channels = np.arange(1, len(sensor.bands) + 1, dtype=np.float32)
  return np.tile(channels, (2, 2, 1))


def matched(have, want, policy='error'):
  found = matching.match(have, want, policy=policy)
  image, valid = matching.apply(found, numbered(have))
  return found, image[0, 0].tolist(), valid


def test_order_is_the_models_not_the_files():
  shuffled = L1C.select(tuple(reversed(L1C.band_names)))
  found, values, valid = matched(shuffled, L1C)
  assert values == list(range(13, 0, -1))
  assert valid.all() and all(found.present)


def test_surplus_bands_are_dropped_and_reported():
  found, values, valid = matched(L1C, SKYSENSE)
  assert values == [2, 3, 4, 5, 6, 7, 8, 9, 12, 13]
  assert valid.all()
  assert found.describe()['unused'] == ['B01', 'B09', 'B10']


def test_common_names_join_sensors_that_name_bands_differently():
  ms = catalogue.get('ms').select(('nir', 'red'))
  dn = tuple(dataclasses.replace(b, units='dn') for b in ms.bands)
  found, values, _ = matched(L1C, dataclasses.replace(ms, bands=dn))
  assert values == [8, 4]
  assert found.describe()['renamed'] == {'nir': 'B08', 'red': 'B04'}


def test_the_same_name_for_another_band_is_no_match():
  landsat = catalogue.get('landsat8').select(('B5',))
  impostor = dataclasses.replace(
    L1C, bands=(dataclasses.replace(L1C.bands[4], name='B5'),)
  )
  with pytest.raises(ValueError, match='has no band of'):
    matching.match(impostor, landsat)


def test_an_ambiguous_common_name_is_no_match():
  twice = tuple(
    dataclasses.replace(band, common_name='red', name=name)
    for band, name in zip(L1C.bands, ('first', 'second', 'B03'))
  )
  with pytest.raises(ValueError, match='B04'):
    matching.match(
      dataclasses.replace(L1C, bands=twice),
      L1C.select(('B03', 'B04')),
    )


def test_error_names_the_missing_bands_and_the_key():
  with pytest.raises(ValueError, match=r"\['B10'\].*missing_bands"):
    matching.match(L2A, L1C, policy='error')


def test_select_leaves_the_missing_out():
  found, values, valid = matched(L2A, L1C, 'select')
  assert found.bands == L2A.band_names
  assert values == list(range(1, 13))
  assert valid.tolist() == [True] * 12
  assert found.describe()['missing'] == ['B10']


def test_mask_gives_zeros_marked_invalid():
  found, values, valid = matched(L2A, L1C, 'mask')
  assert values[10] == 0 and values[11] == 11
  assert [L1C.band_names[i] for i in np.flatnonzero(~valid)] == ['B10']
  assert found.describe()['masked'] == ['B10']


def test_impute_copies_named_neighbours():
  found, values, valid = matched(SKYSENSE, L1C, 'impute')
  by_name = dict(zip(SKYSENSE.band_names, range(1, 11)))
  filled = {'B01': 'B02', 'B09': 'B8A', 'B10': 'B11'}
  assert found.describe()['imputed'] == filled
  for band, neighbour in filled.items():
    assert values[L1C.band_names.index(band)] == by_name[neighbour]
  assert valid.all()
  assert sum(found.present) == 10


def test_what_no_neighbour_sees_cannot_be_imputed():
  with pytest.raises(ValueError, match='B03 cannot be imputed'):
    matching.match(L1C.select(('B02', 'B04')), L1C, policy='impute')


def test_nothing_in_common_is_an_error_under_every_policy():
  for policy in ('error', 'select', 'mask', 'impute'):
    with pytest.raises(ValueError, match='has no band of'):
      matching.match(catalogue.get('dem'), L1C, policy=policy)


@pytest.mark.parametrize('policy', ['error', 'select', 'mask', 'impute'])
def test_a_missing_polarisation_is_always_masked(policy):
  have = SAR_L1.select(('VV_I', 'VV_Q', 'HH_I', 'HH_Q'))
  found, values, valid = matched(have, SAR_L1, policy)
  assert values == [3, 4, 0, 0, 0, 0, 1, 2]
  assert valid.tolist() == [True, True] + [False] * 4 + [True, True]
  assert found.policy == 'mask'


def test_half_a_complex_number_is_an_error():
  have = SAR_L1.select(('HH_I', 'HH_Q', 'VV_I'))
  with pytest.raises(ValueError, match='imaginary parts of VV'):
    matching.match(have, SAR_L1)


def test_other_units_are_refused_with_the_way_out():
  with pytest.raises(ValueError, match='dn.*reflectance.*units.convert'):
    matching.match(L1C, catalogue.get('ms'))


def test_an_unknown_policy_is_an_error_that_suggests():
  with pytest.raises(ValueError, match='missing_bands.*"mask"'):
    matching.match(L2A, L1C, policy='masked')


def test_a_nan_behind_a_masked_band_vanishes():
  found = matching.match(L2A, L1C, policy='mask')
  image = numbered(L2A)
  image[..., 0] = np.nan  # The stand-in channel of absent bands.
  out, _ = matching.apply(found, image)
  assert np.isnan(out[..., 0]).all()
  np.testing.assert_array_equal(out[..., 10], 0)


def test_dtype_stays_and_jax_agrees_under_jit():
  found = matching.match(L2A, L1C, policy='mask')
  image = numbered(L2A).astype(np.uint16)[None]
  here, _ = matching.apply(found, image)
  there = jax.jit(lambda x: matching.apply(found, x)[0])(jnp.asarray(image))
  assert here.dtype == there.dtype == np.uint16
  np.testing.assert_array_equal(here, there)


def test_apply_refuses_other_channels():
  found = matching.match(L1C, SKYSENSE)
  with pytest.raises(ValueError, match='12 channels last'):
    matching.apply(found, numbered(L2A))


def test_the_description_is_json():
  for policy in ('select', 'mask', 'impute'):
    found = matching.match(L2A, L1C, policy=policy)
    described = json.loads(json.dumps(found.describe()))
    assert described['policy'] == policy
    assert described['missing'] == ['B10']
