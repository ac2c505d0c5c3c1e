"""One scene to samples: units, bands, nodata, scale, splits."""

from typing import NamedTuple

import numpy as np
from PIL import Image
import pytest

from rsfm_jax.data import cut
from rsfm_jax.data import readers
from rsfm_jax.data import recipe as recipes
from rsfm_jax.data import sources
from rsfm_jax.data import splits
from tests.data import scene_files


class Cuts(NamedTuple):
  samples: list[cut.Sample]
  counts: cut.Counts


def cuts_of(source, recipe, **options):
  (scene,) = sources.scenes(str(source), sensor=recipe.source)
  counts = cut.Counts()
  return Cuts(list(cut.cut(scene, recipe, counts=counts, **options)), counts)


def recipe(sensor, **options):
  return recipes.Recipe(sensor=sensor, **options)


@pytest.fixture
def s2(tmp_path):
  image = scene_files.digital_numbers(13, 70, 100)
  path = scene_files.write_tiff(tmp_path / 'S2_20200604.tif', image)
  return path, image


def test_chips_are_the_pixels_of_their_window(s2):
  path, image = s2
  found = cuts_of(path, recipe('sentinel2_l1c', chip=32))
  assert len(found.samples) == 3 * 4
  for arrays, fields in found.samples:
    row, column = map(int, fields['id'].rsplit('/', 1)[1].split('_'))
    chip = arrays['sentinel2_l1c/image']
    expected = image[:, row : row + 32, column : column + 32]
    np.testing.assert_array_equal(chip, expected.transpose(1, 2, 0))
    assert chip.dtype == np.uint16 and chip.flags.c_contiguous
    assert fields['bounds'][0] == 500000 + 10 * column
    assert fields['date'] == '2020-06-04' and fields['split'] == 'train'


def test_parts_together_are_the_whole(s2):
  path, _ = s2
  asked = recipe('sentinel2_l1c', chip=16, stride=9)
  whole = [f['id'] for _, f in cuts_of(path, asked).samples]
  parts = [
    f['id']
    for i in range(3)
    for _, f in cuts_of(path, asked, part=(i, 3)).samples
  ]
  assert parts == whole and len(set(whole)) == len(whole)


def test_bands_go_by_name_and_units_are_converted(s2):
  path, image = s2
  order = (*(f'B{i:02d}' for i in range(1, 13)), 'B8A')  # As in EuroSAT.
  found = cuts_of(
    path,
    recipe('sentinel2_l1c', store_as='ms', layout=readers.Layout(bands=order)),
  )
  ((arrays, fields),) = found.samples
  expected = image[[1, 2, 3, 7]].transpose(1, 2, 0) * 1e-4
  np.testing.assert_allclose(arrays['ms/image'], expected, rtol=1e-6)
  assert fields['bands'] is None
  assert found.counts.pixel_bytes == 4 * 70 * 100 * 2  # No other band was read.


def test_the_baseline_offset_is_removed(s2):
  path, image = s2
  ((arrays, _),) = cuts_of(
    path, recipe('sentinel2_l1c', processing_baseline='05.09')
  ).samples
  found = arrays['sentinel2_l1c/image']
  np.testing.assert_array_equal(
    found, image.transpose(1, 2, 0).astype(int) - 1000
  )


def test_a_missing_band_is_an_error_or_is_noted(tmp_path):
  image = scene_files.digital_numbers(1, 16, 16)
  for band in ('B02', 'B03', 'B04'):
    scene_files.write_tiff(tmp_path / f'x_{band}.tif', image)
  with pytest.raises(ValueError, match=r"x_B02.tif.*lacks \['nir'\] of ms"):
    cuts_of(tmp_path, recipe('sentinel2_l1c', store_as='ms'))
  asked = recipe('sentinel2_l1c', store_as='ms', missing_bands='mask')
  ((arrays, fields),) = cuts_of(tmp_path, asked).samples
  assert fields['bands'] == {'ms': ('blue', 'green', 'red')}
  assert not arrays['ms/image'][..., 3].any()


def test_chips_of_nodata_are_skipped_and_the_rest_is_masked(tmp_path):
  image = scene_files.digital_numbers(13, 32, 96)
  image[:, :, :40] = 0
  path = scene_files.write_tiff(tmp_path / 'a.tif', image)
  asked = recipe('sentinel2_l1c', store_as='ms', chip=32, max_nodata=0.3)
  found = cuts_of(path, asked)
  assert found.counts.nodata == 1 and len(found.samples) == 2
  (edge, _), (inside, _) = found.samples
  assert not edge['ms/valid'][:, :8].any() and edge['ms/valid'][:, 8:].all()
  assert not edge['ms/image'][:, :8].any()
  assert 'ms/valid' not in inside
  strict = recipe('sentinel2_l1c', store_as='ms', chip=32, max_nodata=1.0)
  assert len(cuts_of(path, strict).samples) == 2  # An empty chip never stays.


def test_complex_scenes_keep_their_pixels_and_their_scale(tmp_path):
  rng = np.random.default_rng(0)
  scene = rng.normal(size=(40, 48)) + 1j * rng.normal(size=(40, 48))
  scene = (3 * scene).astype(np.complex64)
  scene[:4] = 0
  np.save(tmp_path / 'slc.npy', scene)
  asked = recipe('sar_l1', layout=readers.Layout(bands=('HV',)), chip=16)
  found = cuts_of(tmp_path, asked)
  scale = np.sqrt(np.mean(np.abs(scene[4:]) ** 2))
  arrays, fields = found.samples[3]  # Second row, first column.
  np.testing.assert_allclose(arrays['sar_l1/scene_scale'], scale, rtol=1e-6)
  image = arrays['sar_l1/image']
  np.testing.assert_array_equal(image[..., 2], scene[16:32, :16].real)
  np.testing.assert_array_equal(image[..., 3], scene[16:32, :16].imag)
  assert not image[..., [0, 1, 4, 5, 6, 7]].any()
  assert fields['bands'] == {'sar_l1': ('HV_I', 'HV_Q')}
  assert not found.samples[0].arrays['sar_l1/valid'][:4].any()


def test_every_polarisation_can_be_a_sample(tmp_path):
  for band, value in (('VV', -8.0), ('VH', -15.0)):
    image = np.full((1, 16, 16), value, np.float32)
    scene_files.write_tiff(tmp_path / f's1_{band}.tif', image)
  asked = recipe('sentinel1_grd', store_as='sar_l2', bands_as='samples')
  found = cuts_of(tmp_path, asked)
  values = {f['id']: a['sar_l2/image'][0, 0, 0] for a, f in found.samples}
  assert values == {'s1/VV': -8.0, 's1/VH': -15.0}
  with pytest.raises(ValueError, match='needs a store_as with one band'):
    recipe('sentinel1_grd', bands_as='samples')


def test_frames_of_a_series_are_samples(tmp_path):
  series = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3))
  np.savez(tmp_path / 'a.npz', series.astype(np.uint8))
  found = cuts_of(tmp_path, recipe('opt'))
  assert [f['id'] for _, f in found.samples] == [
    f'a/{i:02d}' for i in range(12)
  ]
  np.testing.assert_array_equal(
    found.samples[11].arrays['opt/image'], series[11]
  )


def test_values_out_of_the_unit_are_an_error_that_names_the_file(tmp_path):
  image = np.full((2, 16, 16), 0.1, np.float32)  # Linear power, not dB.
  path = scene_files.write_tiff(tmp_path / 'linear.tif', image)
  with pytest.raises(ValueError, match='linear.tif.*VV.*cannot be db'):
    cuts_of(path, recipe('sentinel1_grd'))


def test_bands_of_another_sensor_are_an_error_that_names_the_file(tmp_path):
  image = scene_files.digital_numbers(2, 16, 16)
  path = scene_files.write_tiff(tmp_path / 'a.tif', image, names=('B02', 'Q1'))
  with pytest.raises(ValueError, match=r"a.tif: bands \['Q1'\]"):
    cuts_of(path, recipe('sentinel2_l1c'))


def test_chips_between_two_splits_are_left_out(tmp_path):
  image = scene_files.digital_numbers(13, 256, 256)
  path = scene_files.write_tiff(tmp_path / 'a.tif', image)
  policy = splits.Policy(kind='location', shares=(0.5, 0, 0.5), block_km=0.7)
  found = cuts_of(path, recipe('sentinel2_l1c', chip=16, split=policy))
  kept = {fields['split'] for _, fields in found.samples}
  assert kept == {'train', 'test'}
  assert (
    0 < found.counts.border and found.counts.border + len(found.samples) == 256
  )


def pair(tmp_path, after, **options):
  """A scene with a later date and the samples that it gives."""
  first = scene_files.digital_numbers(13, 20, 20)
  scene = sources.Scene(
    id='a',
    files=(('', scene_files.write_tiff(tmp_path / 'a.tif', first)),),
    after=(('', scene_files.write_tiff(tmp_path / 'b.tif', after)),),
  )
  asked = recipe('sentinel2_l1c', **options)
  return list(cut.cut(scene, asked, counts=cut.Counts()))


def test_a_later_date_is_cut_by_the_same_windows(tmp_path):
  after = scene_files.digital_numbers(13, 20, 20, seed=1)
  after[:, :3] = 0  # Nodata of the later date alone.
  for arrays, fields in pair(tmp_path, after, chip=8, stride=6):
    row, column = map(int, fields['id'].split('/')[1].split('_'))
    expected = after[:, row : row + 8, column : column + 8].transpose(1, 2, 0)
    np.testing.assert_array_equal(arrays['sentinel2_l1c/after'], expected)
    assert 'sentinel2_l1c/valid' not in arrays
    valid = arrays.get('sentinel2_l1c/after_valid', np.ones((8, 8), bool))
    np.testing.assert_array_equal(valid, expected.any(-1))


def test_a_later_date_on_a_coarser_grid_is_warped_to_the_first(tmp_path):
  first = scene_files.digital_numbers(13, 20, 20)
  coarse = np.full((13, 10, 10), 700, np.uint16)
  scene = sources.Scene(
    id='a',
    files=(('', scene_files.write_tiff(tmp_path / 'a.tif', first)),),
    after=(
      ('', scene_files.write_tiff(tmp_path / 'b.tif', coarse, pixel=20.0)),
    ),
  )
  ((arrays, _),) = cut.cut(scene, recipe('sentinel2_l1c'), counts=cut.Counts())
  after = arrays['sentinel2_l1c/after']
  assert after.shape == (20, 20, 13) and (after == 700).all()


def test_a_later_picture_of_another_size_is_named(tmp_path):
  for name, edge in (('a', 8), ('b', 9)):
    picture = np.zeros((edge, edge, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / f'{name}.png')
  scene = sources.Scene(
    id='a',
    files=(('', str(tmp_path / 'a.png')),),
    after=(('', str(tmp_path / 'b.png')),),
  )
  with pytest.raises(ValueError, match='b.png has 9 x 9 pixels, its image 8'):
    list(cut.cut(scene, recipe('opt'), counts=cut.Counts()))


def test_frames_are_one_series_or_many_samples(tmp_path):
  series = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
  np.save(tmp_path / 'a.npy', series)
  one = cuts_of(tmp_path / 'a.npy', recipe('opt', frames_as='series'))
  ((arrays, fields),) = one.samples
  assert fields['id'] == 'a'
  np.testing.assert_array_equal(arrays['opt/series'], series)
  np.testing.assert_array_equal(arrays['opt/image'], series[0])
  many = cuts_of(tmp_path / 'a.npy', recipe('opt'))
  assert [f['id'] for _, f in many.samples] == ['a/0', 'a/1']
