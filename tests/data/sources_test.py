"""Listing scenes: folders, archives, band files, tables, TFDS."""

import io
import zipfile

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from rsfm_jax.data import readers
from rsfm_jax.data import sources
from rsfm_jax.sensors import catalogue

S2 = catalogue.get('sentinel2_l1c')
OPT = catalogue.get('opt')


def touch(root, *paths):
  for path in paths:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(b'x')


def png(value):
  buffer = io.BytesIO()
  Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(buffer, 'PNG')
  return buffer.getvalue()


def test_files_of_one_scene_are_grouped_by_band(tmp_path):
  touch(tmp_path, 'x_B04.tif', 'x_B8A.tif', 'y/B2.tif', 'y/B12.TIF')
  found = sources.scenes(str(tmp_path), sensor=S2)
  assert [(s.id, [b for b, _ in s.files]) for s in found] == [
    ('x', ['B04', 'B8A']),
    ('y', ['B02', 'B12']),
  ]


def test_a_name_that_only_ends_like_a_band_is_a_whole_scene(tmp_path):
  touch(tmp_path, 'AnnualCrop_1.tif', 'WEB04.tif', 'B04.jpg')
  found = sources.scenes(str(tmp_path), sensor=S2)
  assert all(band == '' for s in found for band, _ in s.files)


def test_complex_scenes_come_in_one_file_per_polarisation(tmp_path):
  touch(tmp_path, 's_HH.tif', 's_VV.tif')
  (found,) = sources.scenes(str(tmp_path), sensor=catalogue.get('sar_l1'))
  assert [band for band, _ in found.files] == ['HH', 'VV']


def test_two_files_of_one_band_are_an_error(tmp_path):
  touch(tmp_path, 'x_B04.tif', 'x_B4.tif')
  with pytest.raises(ValueError, match='both B04 of scene x.*--pattern'):
    sources.scenes(str(tmp_path), sensor=S2)


def test_labels_dates_and_patterns(tmp_path):
  touch(tmp_path, 'a/S2_20170617T113321.jpg', 'b/plain.jpg', 'b/skip.png')
  found = sources.scenes(
    str(tmp_path), sensor=OPT, pattern='*.jpg', label='folder'
  )
  assert [(s.label, s.date) for s in found] == [
    ('a', '2017-06-17'),
    ('b', None),
  ]
  assert sources.classes(str(tmp_path), found) == ['a', 'b']


def test_an_archive_lists_and_reads_its_members(tmp_path):
  path = tmp_path / 'images.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('cat/one.png', png(7))
    archive.writestr('splits.csv', 'not a scene')
  (scene,) = sources.scenes(str(path), sensor=OPT, label='folder')
  assert scene.label == 'cat' and scene.path == f'{path}!cat/one.png'
  (frame,) = readers.open_scene(scene, sensor=OPT)
  assert (frame.image == 7).all()


def test_a_table_fills_label_split_and_date(tmp_path):
  touch(tmp_path, 'im/a.jpg', 'im/b.jpg')
  table = tmp_path / 'splits.csv'
  table.write_text(
    'file,label,split,date\na.jpg,x,train,20200102\nb.jpg,y,test,\n'
  )
  found = sources.scenes(f'{tmp_path}/im', sensor=OPT, table=str(table))
  assert [(s.label, s.split, s.date) for s in found] == [
    ('x', 'train', '2020-01-02'),
    ('y', 'test', None),
  ]


def test_a_table_may_list_folders_and_dates_by_folder(tmp_path):
  touch(tmp_path, 'im/rome/date1/B02.tif', 'im/rome/date2/B02.tif')
  table = tmp_path / 'splits.csv'
  table.write_text('city,date1,date2,split\nrome,20150101,20180302,val\n')
  found = sources.scenes(f'{tmp_path}/im', sensor=S2, table=str(table))
  assert [(s.split, s.date) for s in found] == [
    ('val', '2015-01-01'),
    ('val', '2018-03-02'),
  ]


@pytest.mark.parametrize(
  'rows, message',
  [
    ('file,split\na.jpg,train\n', '1 scenes are not listed'),
    (
      'file,split\na.jpg,train\nb.jpg,train\nc.jpg,test\n',
      "listed but not found, e.g. \\['c.jpg'\\]",
    ),
    ('file,label\na.jpg,x\n', 'needs a column split'),
    ('', 'needs a column split'),
  ],
)
def test_a_table_that_does_not_fit_is_an_error(tmp_path, rows, message):
  touch(tmp_path, 'im/a.jpg', 'im/b.jpg')
  table = tmp_path / 'splits.csv'
  table.write_text(rows)
  with pytest.raises(ValueError, match=f'splits.csv.*{message}'):
    sources.scenes(f'{tmp_path}/im', sensor=OPT, table=str(table))


def test_nothing_and_damage_are_errors(tmp_path):
  with pytest.raises(ValueError, match='no folder, .zip'):
    sources.scenes(f'{tmp_path}/absent', sensor=OPT)
  with pytest.raises(ValueError, match='holds no scene'):
    sources.scenes(str(tmp_path), sensor=OPT)
  bad = tmp_path / 'bad.zip'
  bad.write_bytes(b'PK\x03\x04 cut short')
  with pytest.raises(ValueError, match='bad.zip is not a readable zip'):
    sources.scenes(str(bad), sensor=OPT)


class TinyScenes(tfds.core.GeneratorBasedBuilder):
  """Four training and two validation images of two classes."""

  # Without a package TFDS looks for no files beside the builder.
  __module__ = 'tiny_scenes'
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = tfds.features.FeaturesDict(
      {
        'image': tfds.features.Image(shape=(8, 8, 3)),
        'label': tfds.features.ClassLabel(names=['land', 'sea']),
      }
    )
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    del dl_manager
    return {
      'train': self._generate_examples(4),
      'validation': self._generate_examples(2),
    }

  def _generate_examples(self, count):
    for i in range(count):
      yield i, {'image': io.BytesIO(png(i)), 'label': i % 2}


def test_a_tfds_builder_is_a_source(tmp_path, monkeypatch):

  def builder(name, **options):
    del name
    return TinyScenes(data_dir=str(tmp_path), **options)

  monkeypatch.setattr(tfds, 'builder', builder)
  source = 'tfds:tiny_scenes'
  found = sources.scenes(source, sensor=OPT)
  assert [s.split for s in found] == ['train'] * 4 + ['val'] * 2
  assert sources.classes(source, found) == ['land', 'sea']
  values = set()
  for scene in found[:4]:
    (frame,) = readers.open_scene(scene, sensor=OPT)
    value = int(frame.image[0, 0, 0])
    assert frame.label == ('land', 'sea')[value % 2]
    values.add(value)
  assert values == {0, 1, 2, 3}


def test_an_unknown_tfds_builder_is_an_error():
  with pytest.raises(ValueError, match='tfds:no_such_data is not available'):
    sources.scenes('tfds:no_such_data', sensor=OPT)


def test_a_geotiff_in_a_bucket_is_a_scene_of_unknown_size():
  (found,) = sources.scenes('gs://bucket/in/S2_20200604.tif', sensor=S2)
  assert found.files == (('', 'gs://bucket/in/S2_20200604.tif'),)
  assert (found.id, found.date, found.size) == (
    'S2_20200604',
    '2020-06-04',
    None,
  )


def test_a_table_lists_a_folder_of_a_bucket(tmp_path):
  table = tmp_path / 't.csv'
  table.write_text('file,split,label\na/x.tif,train,sea\nb/y.tif,val,land\n')
  found = sources.scenes('s3://bucket/in/', sensor=S2, table=str(table))
  assert [(s.id, s.path, s.split, s.label) for s in found] == [
    ('a/x', 's3://bucket/in/a/x.tif', 'train', 'sea'),
    ('b/y', 's3://bucket/in/b/y.tif', 'val', 'land'),
  ]


@pytest.mark.parametrize(
  ('source', 'message'),
  [
    ('gs://bucket/in', 'nobody lists a bucket.*--table'),
    ('gs://bucket/in.zip', 'nobody lists a bucket'),
    ('az://bucket/x.tif', r'az://bucket/x.tif: a scene on az:// is not'),
  ],
)
def test_what_cannot_be_listed_in_a_bucket_is_an_error(source, message):
  with pytest.raises(ValueError, match=message):
    sources.scenes(source, sensor=S2)


def test_only_geotiffs_are_read_from_a_bucket(tmp_path):
  table = tmp_path / 't.csv'
  table.write_text('file,split\nx.jpg,train\n')
  with pytest.raises(
    ValueError, match=r'gs://b/x.jpg: .* no GeoTIFF .*gcsfuse'
  ):
    sources.scenes('gs://b', sensor=S2, table=str(table))
  touch(tmp_path, 'a.tif')
  with pytest.raises(ValueError, match='gs://b/t.csv: a table'):
    sources.scenes(str(tmp_path), sensor=S2, table='gs://b/t.csv')
