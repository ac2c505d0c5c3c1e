import json

import numpy as np
import pytest
import safetensors.numpy

from rsfm_jax.sensors import class_table

NAMES = ('water', 'forest', 'bare_soil')


@pytest.fixture
def table():
  vectors = np.random.default_rng(0).normal(size=(3, 8))
  return class_table.ClassTable.of(NAMES, vectors, origin='a test')


def test_vectors_have_length_one_and_their_direction(table):
  raw = np.random.default_rng(0).normal(size=(3, 8))
  np.testing.assert_allclose(np.linalg.norm(table.vectors, axis=1), 1, 1e-6)
  cosine = (table.vectors * raw).sum(1) / np.linalg.norm(raw, axis=1)
  np.testing.assert_allclose(cosine, 1, rtol=1e-6)
  assert len(table) == 3 and table.dim == 8
  assert table.vectors.dtype == np.float32


def test_a_table_comes_back_as_it_was_saved(table, tmp_path):
  class_table.save(tmp_path / 'table', table)
  back = class_table.load(tmp_path / 'table')
  assert (back.names, back.origin) == (NAMES, 'a test')
  np.testing.assert_array_equal(back.vectors, table.vectors)
  assert {path.name for path in (tmp_path / 'table').iterdir()} == {
    'class_table.json',
    'class_table.safetensors',
  }


def test_a_folder_without_header_is_no_table(tmp_path):
  with pytest.raises(ValueError, match='text-embeddings'):
    class_table.load(tmp_path)


def test_files_that_do_not_belong_together_are_refused(table, tmp_path):
  class_table.save(tmp_path, table)
  other = safetensors.numpy.save({'vectors': table.vectors[::-1].copy()})
  (tmp_path / 'class_table.safetensors').write_bytes(other)
  with pytest.raises(ValueError, match='not the file'):
    class_table.load(tmp_path)


@pytest.mark.parametrize(
  'change', [{'format': 'x'}, {'names': ['a', 'b']}, {'sha256': 3}]
)
def test_a_damaged_header_is_named(table, tmp_path, change):
  class_table.save(tmp_path, table)
  path = tmp_path / 'class_table.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ValueError, match='class_table.json'):
    class_table.load(tmp_path)


def test_the_fallback_says_so_and_is_the_same_everywhere():
  table = class_table.fallback(NAMES, 16)
  assert 'fallback' in table.origin and 'without meaning' in table.origin
  np.testing.assert_allclose(
    table.vectors[1, :3], [-0.097671, 0.310257, 0.322489], rtol=1e-4
  )
  alone = class_table.fallback(['forest'], 16)
  np.testing.assert_array_equal(alone.vectors[0], table.vectors[1])


def test_fallback_vectors_can_be_told_apart():
  vectors = class_table.fallback([f'class {i}' for i in range(64)]).vectors
  assert vectors.shape == (64, 512)
  cosines = vectors @ vectors.T - np.eye(64)
  assert np.abs(cosines).max() < 0.25
  assert abs(vectors.mean()) < 1e-3


@pytest.mark.parametrize(
  'names, vectors, message',
  [
    (('a', 'a'), np.eye(2), r"twice: \['a'\]"),
    ((), np.zeros((0, 2)), 'it has 0'),
    (('a', ''), np.eye(2), 'needs 1 to'),
    (('a', 'b'), [[1, 0], [0, 0]], r"\['b'\] do not have length 1"),
    (('a', 'b'), [[1, 0], [0, np.nan]], r"\['b'\]"),
    (('a', 'b'), np.eye(3), '2 classes'),
    ([str(i) for i in range(256)], np.ones((256, 2)), 'it has 256'),
  ],
)
def test_tables_that_cannot_be_are_refused(names, vectors, message):
  with pytest.raises(ValueError, match=message):
    class_table.ClassTable.of(names, vectors, origin='a test')


def test_a_table_without_origin_is_refused():
  with pytest.raises(ValueError, match='origin'):
    class_table.ClassTable.of(NAMES, np.eye(3), origin='')


def test_a_table_fits_the_mask_whose_codes_it_names(table):
  table.check(list(NAMES))
  with pytest.raises(ValueError, match="lacks .'woods'.*has .'forest'"):
    table.check(['water', 'woods', 'bare_soil'])
  with pytest.raises(ValueError, match='counts them'):
    table.check(['forest', 'water', 'bare_soil'])
  with pytest.raises(ValueError, match='Did you mean "bare_soil"'):
    table.check(['water', 'forest', 'baresoil'])


def test_codes_without_a_name_are_errors(table):
  table.check_codes(np.uint8([0, 2, 255]))
  with pytest.raises(ValueError, match='code 3.*only 3 classes'):
    table.check_codes(np.uint8([0, 3, 255]))


def test_classes_are_selected_by_name(table):
  some = table.select(['bare_soil', 'water'])
  np.testing.assert_array_equal(some.vectors, table.vectors[[2, 0]])
  assert some.origin == table.origin
  with pytest.raises(ValueError, match='Did you mean "forest"'):
    table.select(['forests'])


def _written(tmp_path, kind):
  vectors = np.float32([[3, 4], [0, 2]])
  path = tmp_path / f'vectors.{kind.split("-")[0]}'
  by_name = {'water': vectors[0], 'forest': vectors[1]}
  if kind == 'npz':
    np.savez(path, names=np.array(list(by_name)), vectors=vectors)
  elif kind == 'json':
    path.write_text(json.dumps({k: v.tolist() for k, v in by_name.items()}))
  elif kind == 'json-lists':
    path.write_text(
      json.dumps({'names': list(by_name), 'vectors': vectors.tolist()})
    )
  elif kind == 'safetensors':
    safetensors.numpy.save_file(by_name, path)
  else:
    safetensors.numpy.save_file(
      {'vectors': vectors}, path, {'names': json.dumps(list(by_name))}
    )
  return path


@pytest.mark.parametrize(
  'kind', ['npz', 'json', 'json-lists', 'safetensors', 'safetensors-lists']
)
def test_names_and_vectors_are_read_from_files(tmp_path, kind):
  path = _written(tmp_path, kind)
  table = class_table.read_vectors(path).select(['water', 'forest'])
  np.testing.assert_allclose(table.vectors, [[0.6, 0.8], [0, 1]], rtol=1e-6)
  assert path.name in table.origin and 'SHA-256' in table.origin


def test_files_that_are_no_tables_are_named(tmp_path):
  objects = tmp_path / 'objects.npz'
  np.savez(objects, names=np.array([{}], object), vectors=np.eye(1))
  text = tmp_path / 'text.json'
  text.write_text('[1, 2]')
  cut = tmp_path / 'cut.safetensors'
  cut.write_bytes(b'\x00' * 9)
  broken = tmp_path / 'broken.npz'
  broken.write_bytes(b'PK\x03\x04 and no more')
  for path in (objects, text, cut, broken):
    with pytest.raises(ValueError, match=path.name):
      class_table.read_vectors(path)
  with pytest.raises(ValueError, match='kind of file'):
    class_table.read_vectors(tmp_path / 'vectors.csv')
