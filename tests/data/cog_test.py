"""Maps that grow strip by strip, survive kills, and end as COGs."""

import shutil

import numpy as np
import pytest
import rasterio

from rsfm_jax.data import cog
from rsfm_jax.data import raster

TRANSFORM = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
STRIPS = 4
JOB = {'model': 'a', 'stride': 3}


def layout(height=700, width=600, **changes):
  given = {
    'bands': ('class',),
    'dtype': 'uint8',
    'nodata': 255,
    'georeference': raster.Georeference(cog.wkt_of('EPSG:32632'), TRANSFORM),
    'colours': ((1, 2, 3), (4, 5, 6)),
    'tags': (('MODEL', 'a'),),
  }
  return cog.Layout(height=height, width=width, **(given | changes))


def values(of):
  rng = np.random.default_rng(0)
  found = rng.integers(0, 2, (of.height, of.width, len(of.bands)))
  return found.astype(of.dtype)


def strip(of, number):
  """Window and values of a strip, whose edges are no tiles'."""
  rows = of.height // STRIPS
  window = raster.Window(number * rows, 0, rows, of.width)
  return window, values(of)[window.row : window.row + rows]


def fill(writer, numbers=range(STRIPS)):
  for number in numbers:
    writer.write(*strip(writer.layout, number), done=number + 1)


def test_a_map_is_a_cog_with_all_that_was_said(tmp_path):
  of = layout()
  with cog.MapWriter(tmp_path / 'm.tif', of, job=JOB) as writer:
    fill(writer)
    writer.finish()
  assert [path.name for path in tmp_path.iterdir()] == ['m.tif']
  with rasterio.open(tmp_path / 'm.tif') as file:
    assert file.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
    assert file.overviews(1) == [2] and file.block_shapes == [(512, 512)]
    assert file.crs == 'EPSG:32632' and file.nodata == 255
    assert tuple(file.transform)[:6] == TRANSFORM
    assert file.colormap(1)[1] == (4, 5, 6, 255)
    assert file.colormap(1)[255][3] == 0
    assert file.tags()['MODEL'] == 'a' and file.descriptions == ('class',)
    np.testing.assert_array_equal(file.read(1), values(of)[..., 0])


def test_the_directories_of_a_cog_come_before_its_pixels(tmp_path):
  with cog.MapWriter(tmp_path / 'm.tif', layout(), job=JOB) as writer:
    fill(writer)
    writer.finish()
  head = (tmp_path / 'm.tif').read_bytes()[:300]
  assert b'LAYOUT=IFDS_BEFORE_DATA' in head


def test_a_map_without_an_end_has_no_name(tmp_path):
  with cog.MapWriter(tmp_path / 'm.tif', layout(), job=JOB) as writer:
    fill(writer, range(2))
  assert not (tmp_path / 'm.tif').exists()
  with cog.MapWriter(tmp_path / 'm.tif', layout(), job=JOB) as writer:
    assert writer.done == 2


def test_a_map_without_a_strip_leaves_nothing(tmp_path):
  with cog.MapWriter(tmp_path / 'm.tif', layout(), job=JOB):
    pass
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('dtype, bands', [('uint8', 1), ('float32', 5)])
def test_a_kill_at_any_time_ends_in_the_same_bytes(tmp_path, dtype, bands):
  names = tuple(f'b{i}' for i in range(bands))
  of = layout(
    dtype=dtype, bands=names, colours=() if bands > 1 else ((1,) * 3,)
  )
  whole = tmp_path / 'whole.tif'
  with cog.MapWriter(whole, of, job=JOB) as writer:
    fill(writer)
    writer.finish()
  path = tmp_path / 'killed.tif'
  left = tmp_path / 'left'
  with cog.MapWriter(path, of, job=JOB, commit_seconds=0) as writer:
    fill(writer, range(2))
    writer._every = 1e9  # What follows is not said to be done.
    fill(writer, [2])
    # What a kill leaves on the disk: GDAL holds the rest.
    shutil.copytree(writer.folder, left)
  shutil.rmtree(writer.folder)
  left.rename(writer.folder)
  with cog.MapWriter(path, of, job=JOB) as writer:
    assert writer.done == 2
    fill(writer, range(2, STRIPS))
    writer.finish()
  assert path.read_bytes() == whole.read_bytes()


def test_an_unfinished_map_of_another_job_is_kept(tmp_path):
  with cog.MapWriter(tmp_path / 'm.tif', layout(), job=JOB) as writer:
    fill(writer, range(1))
  other = cog.MapWriter(tmp_path / 'm.tif', layout(), job=JOB | {'stride': 4})
  with pytest.raises(ValueError, match='stride: 3 -> 4'), other:
    pass
  with cog.MapWriter(tmp_path / 'm.tif', layout(), job=JOB) as writer:
    assert writer.done == 1


def test_two_processes_do_not_make_one_map(tmp_path):
  first = cog.MapWriter(tmp_path / 'm.tif', layout(), job=JOB)
  second = cog.MapWriter(tmp_path / 'm.tif', layout(), job=JOB)
  with first, pytest.raises(RuntimeError, match='in use'), second:
    pass


def test_a_plain_file_is_no_cog(tmp_path):
  path = tmp_path / 'plain.tif'
  profile = {'height': 600, 'width': 600, 'count': 1, 'dtype': 'uint8'}
  with rasterio.open(path, 'w', driver='GTiff', **profile) as file:
    file.write(np.zeros((1, 600, 600), np.uint8))
  with pytest.raises(ValueError, match='is no COG'):
    cog.check(path)


@pytest.mark.parametrize('bands, tile', [(1, 512), (8, 128), (768, 128)])
def test_tiles_of_many_bands_are_smaller(bands, tile):
  names = tuple(map(str, range(bands)))
  assert layout(bands=names, dtype='float32').tile == tile
