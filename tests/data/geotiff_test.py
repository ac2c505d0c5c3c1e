"""GeoTIFF: windows, grids, nodata, places, damage."""

import zipfile

import numpy as np
import pytest

from rsfm_jax.data import geotiff
from rsfm_jax.data import raster
from tests.data import scene_files

WHOLE = raster.Window(0, 0, 24, 36)


def test_a_window_holds_the_asked_bands_in_the_asked_order(tmp_path):
  image = scene_files.digital_numbers(3, 24, 36)
  path = scene_files.write_tiff(tmp_path / 'a.tif', image)
  tiff = geotiff.GeoTiff(path, layers=('B02', 'B03', 'B04'))
  found = tiff.read(raster.Window(2, 5, 8, 6), ('B04', 'B02'))
  np.testing.assert_array_equal(
    found.image, image[[2, 0], 2:10, 5:11].transpose(1, 2, 0)
  )
  assert found.image.dtype == np.uint16 and found.valid.all()


def test_names_come_from_the_file_and_an_empty_name_skips_a_band(tmp_path):
  image = scene_files.digital_numbers(3, 24, 36)
  named = scene_files.write_tiff(
    tmp_path / 'a.tif', image, names=('B08', 'B04', 'B02')
  )
  assert geotiff.GeoTiff(named).bands == ('B08', 'B04', 'B02')
  plain = geotiff.GeoTiff(named, layers=('', 'B03', ''))
  found = plain.read(WHOLE, ('B03',))
  np.testing.assert_array_equal(found.image[..., 0], image[1])


def test_another_number_of_bands_is_an_error_that_names_the_file(tmp_path):
  path = scene_files.write_tiff(
    tmp_path / 'three.tif', scene_files.digital_numbers(3, 24, 36)
  )
  with pytest.raises(ValueError, match='three.tif has 3 bands, not 2.*--bands'):
    geotiff.GeoTiff(path, layers=('B02', 'B03'))


def test_coarse_bands_come_onto_the_finest_grid(tmp_path):
  """Values that are linear in position stay so under bilinear resampling."""
  fine = np.zeros((1, 24, 36), np.float32)
  column = (np.arange(18) * 20 + 10).astype(np.float32)
  coarse = np.broadcast_to(column, (1, 12, 18)).copy()
  tiff = geotiff.GeoTiff(
    {
      'B11': scene_files.write_tiff(tmp_path / 'B11.tif', coarse, pixel=20.0),
      'B02': scene_files.write_tiff(tmp_path / 'B02.tif', fine),
    }
  )
  assert (tiff.height, tiff.width) == (24, 36)
  image = tiff.read(WHOLE, ('B02', 'B11')).image
  expected = np.arange(36) * 10 + 5.0
  np.testing.assert_allclose(image[12, 2:-2, 1], expected[2:-2], atol=0.01)


def test_a_window_of_a_resampled_band_is_a_window_of_the_whole(tmp_path):
  """No seams: chips cut strip by strip agree with the whole scene."""
  tiff = geotiff.GeoTiff(
    {
      'B02': scene_files.write_tiff(
        tmp_path / 'B02.tif', scene_files.digital_numbers(1, 24, 36)
      ),
      'B11': scene_files.write_tiff(
        tmp_path / 'B11.tif', scene_files.digital_numbers(1, 12, 18), pixel=20.0
      ),
      'B09': scene_files.write_tiff(
        tmp_path / 'B09.tif', scene_files.digital_numbers(1, 4, 6), pixel=60.0
      ),
    }
  )
  bands = ('B11', 'B02', 'B09')
  whole = tiff.read(WHOLE, bands).image
  part = tiff.read(raster.Window(7, 9, 11, 13), bands).image
  np.testing.assert_array_equal(part, whole[7:18, 9:22])


def test_a_shifted_grid_is_aligned_by_georeference(tmp_path):
  image = scene_files.digital_numbers(1, 24, 36)
  shifted = geotiff.GeoTiff(
    {
      'B02': scene_files.write_tiff(tmp_path / 'B02.tif', image),
      'B03': scene_files.write_tiff(
        tmp_path / 'B03.tif', image, origin=(500030.0, 5000000.0)
      ),
    },
    nodata=0,
  )
  found = shifted.read(WHOLE, ('B02', 'B03'))
  np.testing.assert_array_equal(found.image[:, 3:, 1], image[0, :, :-3])
  assert not found.valid[:, :3].any() and found.valid[:, 3:].all()


def test_nodata_never_bleeds_into_resampled_pixels(tmp_path):
  coarse = np.full((1, 12, 18), 1000, np.uint16)
  coarse[:, :, :9] = 0
  tiff = geotiff.GeoTiff(
    {
      'B02': scene_files.write_tiff(
        tmp_path / 'B02.tif', scene_files.digital_numbers(1, 24, 36)
      ),
      'B11': scene_files.write_tiff(tmp_path / 'B11.tif', coarse, pixel=20.0),
    },
    nodata=0,
  )
  found = tiff.read(WHOLE, ('B02', 'B11'))
  assert set(np.unique(found.image[..., 1])) <= {0, 1000}
  assert not found.valid[:, :17].any() and found.valid[:, 19:].all()


def test_the_files_own_nodata_beats_the_contracts(tmp_path):
  image = scene_files.digital_numbers(2, 24, 36)
  image[0, 3, 4] = 7
  path = scene_files.write_tiff(tmp_path / 'a.tif', image, nodata=7)
  valid = geotiff.GeoTiff(path, layers='ab', nodata=0).read(WHOLE, 'ab').valid
  assert not valid[3, 4] and valid.sum() == valid.size - 1


def test_complex_bands_become_i_and_q_and_are_never_interpolated(tmp_path):
  rng = np.random.default_rng(0)
  image = rng.normal(size=(1, 24, 36)) + 1j * rng.normal(size=(1, 24, 36))
  image = image.astype(np.complex64)
  image[0, 0] = 0  # The fill of a single-look product.
  hh = scene_files.write_tiff(tmp_path / 'HH.tif', image)
  tiff = geotiff.GeoTiff({'HH': hh})
  found = tiff.read(WHOLE, tiff.bands)
  assert tiff.bands == ('HH_I', 'HH_Q')
  np.testing.assert_array_equal(found.image[..., 1], image[0].imag)
  assert not found.valid[0].any() and found.valid[1:].all()
  coarse = scene_files.write_tiff(
    tmp_path / 'HV.tif', image[:, ::2, ::2], pixel=20.0
  )
  with pytest.raises(ValueError, match='never interpolated'):
    geotiff.GeoTiff({'HH': hh, 'HV': coarse})


def test_places_have_crs_bounds_centre_and_corners(tmp_path):
  path = scene_files.write_tiff(
    tmp_path / 'a.tif', scene_files.digital_numbers(1, 24, 36)
  )
  tiff = geotiff.GeoTiff(path, layers=('B02',))
  (place,) = tiff.places([raster.Window(2, 3, 10, 20)])
  assert place.crs == 'EPSG:32632'
  assert place.bounds == (500030.0, 4999880.0, 500230.0, 4999980.0)
  longitude, latitude = place.lonlat  # 500 km east: the central meridian, 9.
  assert abs(longitude - 9.0017) < 1e-3 and abs(latitude - 45.15) < 0.01
  assert place.corners[0][1] > place.lonlat[1] > place.corners[2][1]


def test_a_scene_without_a_place_says_so(tmp_path):
  path = scene_files.write_tiff(
    tmp_path / 'a.tif', scene_files.digital_numbers(1, 24, 36), crs=None
  )
  tiff = geotiff.GeoTiff(path, layers=('B02',))
  assert tiff.places([WHOLE]) == [raster.Place()]


def test_a_member_of_an_archive_opens(tmp_path):
  image = scene_files.digital_numbers(1, 24, 36)
  path = scene_files.write_tiff(tmp_path / 'a.tif', image)
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
    archive.write(path, 'in/side.tif')
  tiff = geotiff.GeoTiff(f'{tmp_path}/a.zip!in/side.tif', layers=('B02',))
  read = tiff.read(WHOLE, ('B02',)).image
  np.testing.assert_array_equal(read[..., 0], image[0])


@pytest.mark.parametrize('keep', [10, 200, 0.6])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, keep):
  path = tmp_path / 'cut.tif'
  scene_files.write_tiff(
    path, scene_files.digital_numbers(1, 256, 256), compress='deflate'
  )
  content = path.read_bytes()
  size = keep if isinstance(keep, int) else int(keep * len(content))
  path.write_bytes(content[:size])
  with pytest.raises(ValueError, match='cut.tif'):
    tiff = geotiff.GeoTiff(str(path), layers=('B02',))
    tiff.read(raster.Window(0, 0, 256, 256), ('B02',))
