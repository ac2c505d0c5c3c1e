"""Features on disk: whole or absent, found by what they were made from."""

import threading
import time

import numpy as np
import pytest

from rsfm_jax.evaluate import feature_cache
from rsfm_jax.evaluate import features


def entry(value=1.0):
  values = np.full((3, 2), value, np.float32)
  return feature_cache.Entry(
    {
      'train': features.Features(values, np.array([0, 1, 2])),
      'test': features.Features(values[:1], np.array([[1, 0]])),
    },
    {'checkpoint': 'abc'},
  )


def test_what_is_saved_is_found(tmp_path):
  assert not feature_cache.has(tmp_path, 'k')
  feature_cache.save(tmp_path, 'k', entry())
  found = feature_cache.load(tmp_path, 'k')
  assert found.about == {'checkpoint': 'abc'}
  assert set(found.features) == {'train', 'test'}
  for split, expected in entry().features.items():
    got = found.features[split]
    np.testing.assert_array_equal(got.values, expected.values)
    np.testing.assert_array_equal(got.labels, expected.labels)
    assert got.values.dtype == np.float32


def test_every_part_changes_the_key_and_order_does_not():
  a = feature_cache.key({'model': 'x', 'target': {'fit': 'crop', 'size': 8}})
  b = feature_cache.key({'target': {'size': 8, 'fit': 'crop'}, 'model': 'x'})
  c = feature_cache.key({'model': 'x', 'target': {'fit': 'crop', 'size': 9}})
  assert a == b != c


def test_a_second_one_waits_and_reads(tmp_path):
  made, sources = [], []

  def make():
    time.sleep(0.2)
    made.append(1)
    return entry()

  def get():
    sources.append(feature_cache.get(tmp_path, 'k', make)[1])

  threads = [threading.Thread(target=get) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(made) == 1
  assert sorted(sources) == ['cached', 'cached', 'encoded']


def test_what_fails_leaves_nothing_and_gives_the_turn_back(tmp_path):
  def fail():
    raise ValueError('no such sensor')

  with pytest.raises(ValueError, match='no such sensor'):
    feature_cache.get(tmp_path, 'k', fail)
  assert not feature_cache.has(tmp_path, 'k')
  assert feature_cache.get(tmp_path, 'k', entry)[1] == 'encoded'


def test_damage_is_named(tmp_path):
  feature_cache.save(tmp_path, 'k', entry())
  path = feature_cache.path_of(tmp_path, 'k')
  path.write_bytes(path.read_bytes()[:-7])
  with pytest.raises(ValueError, match='k.safetensors is damaged'):
    feature_cache.load(tmp_path, 'k')
