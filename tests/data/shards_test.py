"""Shards: whole or not there, bound by an index in the order of numbers."""

import numpy as np
import pytest

from rsfm_jax.core import files
from rsfm_jax.data import shards
from rsfm_jax.data import store
from rsfm_jax.sensors import catalogue

HEADER = shards.Header(sensors={'opt': catalogue.get('opt')}, classes=['sea'])


def add(writer, *ids, **sample):
  for id_ in ids:
    image = np.full((4, 4, 3), len(id_), np.uint8)
    writer.add({'opt/image': image}, id=id_, **sample)


def seal(folder, number, *ids, **notes):
  with shards.ShardWriter(folder, number, HEADER, key='k') as writer:
    add(writer, *ids)
    return writer.seal(notes)


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_a_sealed_shard_has_a_journal(tmp_path):
  journal = seal(tmp_path, 3, 'a', 'b', bad={})
  assert names(tmp_path) == ['shard-00003.array_record', 'shard-00003.json']
  assert shards.read_journal(tmp_path, 3, HEADER) == journal
  assert journal['key'] == 'k' and journal['notes'] == {'bad': {}}
  assert [row['id'] for row in journal['rows']] == ['a', 'b']
  assert shards.read_journal(tmp_path, 4, HEADER) is None


def test_what_is_not_sealed_leaves_nothing(tmp_path):
  taken = {'old'}
  with (
    pytest.raises(KeyError),
    shards.ShardWriter(tmp_path, 0, HEADER, taken=taken) as writer,
  ):
    add(writer, 'new')
    assert names(tmp_path) and taken == {'old', 'new'}
    raise KeyError
  assert not names(tmp_path) and taken == {'old'}


def test_two_writers_of_one_shard_do_not_meet(tmp_path):
  with (
    shards.ShardWriter(tmp_path, 0, HEADER) as one,
    shards.ShardWriter(tmp_path, 0, HEADER) as two,
  ):
    add(one, 'a')
    add(two, 'a')
    add(one, 'b')
    first = one.seal()
    add(two, 'b')
    assert two.seal() == first
  assert names(tmp_path) == ['shard-00000.array_record', 'shard-00000.json']


def test_an_index_binds_shards_in_their_order(tmp_path):
  seal(tmp_path, 2, 'c')
  seal(tmp_path, 1)  # Nothing worth keeping there.
  seal(tmp_path, 0, 'b', 'a')
  (tmp_path / 'shard-00000.0123.part').touch()  # Of a worker that died.
  shards.write_index(tmp_path, HEADER, shards=3)
  made = store.Store(tmp_path)
  assert made.column('id') == ['b', 'a', 'c'] and made.classes == ['sea']
  assert [made.read(i)['opt/image'][0, 0, 0] for i in range(3)] == [1, 1, 1]
  assert names(tmp_path) == [
    'index.json',
    'shard-00000.array_record',
    'shard-00002.array_record',
  ]


def test_an_index_is_of_all_shards_or_not_written(tmp_path):
  seal(tmp_path, 0, 'a')
  seal(tmp_path, 2, 'a')
  with pytest.raises(ValueError, match=r'shard-00001\.json is missing'):
    shards.write_index(tmp_path, HEADER, shards=3)
  seal(tmp_path, 1)
  with pytest.raises(ValueError, match='two samples share an id'):
    shards.write_index(tmp_path, HEADER, shards=3)
  with pytest.raises(ValueError, match='no sample was added'):
    shards.write_index(tmp_path, HEADER, shards=0)
  assert not (tmp_path / 'index.json').exists()


def test_a_journal_of_another_store_or_a_damaged_shard_is_named(tmp_path):
  seal(tmp_path, 0, 'a')
  other = shards.Header(sensors=HEADER.sensors, classes=['land'])
  with pytest.raises(ValueError, match=r"00\.json: .* other \['classes'\]"):
    shards.read_journal(tmp_path, 0, other)
  path = tmp_path / 'shard-00000.json'
  files.write_json(path, files.read_json(path) | {'journal': 'older/1'})
  with pytest.raises(ValueError, match=r"other \['journal'\]"):
    shards.read_journal(tmp_path, 0, HEADER)
  seal(tmp_path, 0, 'a')
  (tmp_path / 'shard-00000.array_record').unlink()
  with pytest.raises(ValueError, match='array_record is damaged: .* missing'):
    shards.read_journal(tmp_path, 0, HEADER)
