"""Times and places of HDF5 and NetCDF files."""

import zipfile

import h5py
import numpy as np
import pytest
from rasterio import crs

from rsfm_jax.data import netcdf

UTM = crs.CRS.from_epsg(32631).to_wkt()


def write(path, *, wkt=UTM, **datasets):
  """Two rows and three columns of 10 m; `units` of each data set by pair."""
  with h5py.File(path, 'w') as file:
    file['x'] = np.array([500005.0, 500015.0, 500025.0])
    file['y'] = np.array([20.0 + 10, 20.0])
    file['spatial_ref'] = 0
    file['spatial_ref'].attrs['crs_wkt'] = wkt
    for name, (values, units) in datasets.items():
      file[name] = values
      file[name].attrs['units'] = units
  return str(path)


@pytest.mark.parametrize(
  'values, units, expected',
  [
    ([0, 59], 'days since 2020-01-01', ['2020-01-01', '2020-02-29']),
    ([24], 'hours since 2019-12-31 00:00:00', ['2020-01-01']),
    ([40], np.bytes_('seconds since 2017-12-31T23:59:30'), ['2018-01-01']),
  ],
)
def test_a_time_axis_counts_from_its_origin(tmp_path, values, units, expected):
  path = write(tmp_path / 'a.nc', t=(np.array(values), units))
  assert [time[:10] for time in netcdf.times(path, 't')] == expected


def test_names_of_products_have_their_date(tmp_path):
  names = ['S2A_MSIL2A_20200102T102421_N0213', 'nobody knows']
  path = write(tmp_path / 'a.nc', products=(names, ''))
  assert netcdf.times(path, 'products') == ['2020-01-02', '']


def test_what_is_no_time_says_so(tmp_path):
  path = write(tmp_path / 'a.nc', t=(np.array([1, 2]), 'metres'))
  with pytest.raises(ValueError, match="'metres'.*days since"):
    netcdf.times(path, 't')
  with pytest.raises(ValueError, match="times='when' is no list among"):
    netcdf.times(path, 'when')
  (tmp_path / 'b.nc').write_bytes(b'not HDF5')
  with pytest.raises(ValueError, match='b.nc is not readable as HDF5'):
    netcdf.place(str(tmp_path / 'b.nc'))


def test_coordinates_are_centres_of_pixels(tmp_path):
  path = write(tmp_path / 'a.nc')
  place = netcdf.place(path)
  assert place.bounds == (500000, 15, 500030, 35) and '32631' in place.crs
  # The central meridian of zone 31, a few metres from the equator.
  np.testing.assert_allclose(place.lonlat, (3.0001348, 0.0002261), atol=1e-6)
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
    archive.write(path, 'in/a.nc')
  assert netcdf.place(f'{tmp_path}/a.zip!in/a.nc') == place


def test_no_crs_is_no_place(tmp_path):
  assert netcdf.place(write(tmp_path / 'a.nc', wkt='')).bounds is None
  assert netcdf.place(write(tmp_path / 'b.nc', wkt='{}')).lonlat is None
