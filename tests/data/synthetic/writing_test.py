import numpy as np
import pytest

from rsfm_jax.data import store as stores
from rsfm_jax.data.synthetic import samples
from rsfm_jax.data.synthetic import scene
from rsfm_jax.data.synthetic import writing
from rsfm_jax.sensors import catalogue


def test_a_store_holds_what_was_made(options, tmp_path):
  store = writing.write(tmp_path / 'store', options, 24, workers=0)
  store = stores.Store(tmp_path / 'store')
  assert len(store) == 24
  assert store.classes == list(scene.CLASSES)
  assert set(store.sensors) == {'opt', 'sar_l1', 'sar_l2', 'ms'}
  np.testing.assert_array_equal(
    store.labels(), np.arange(24) % len(scene.CLASSES)
  )
  made = samples.make(options, 13).arrays
  read = store.read(13)
  assert set(made) == set(read)
  for name, array in made.items():
    np.testing.assert_array_equal(read[name], array)


def test_processes_change_nothing(ringmoe_sensors):
  options = samples.Options(sensors=ringmoe_sensors, size=32, seed=5)
  indices = range(3, 40)
  alone = list(writing.stream(options, indices, workers=0))
  shared = list(writing.stream(options, indices, workers=2))
  assert [s.fields for s in alone] == [s.fields for s in shared]
  for a, b in zip(alone, shared, strict=True):
    for name in a.arrays:
      np.testing.assert_array_equal(a.arrays[name], b.arrays[name])


def test_an_interrupted_store_is_continued(tmp_path, monkeypatch):
  options = samples.Options(sensors=(catalogue.get('opt'),), size=32)
  real, calls = samples.make, []

  def failing(options, index):
    calls.append(index)
    if len(calls) == 20:
      raise KeyboardInterrupt
    return real(options, index)

  monkeypatch.setattr(samples, 'make', failing)
  with pytest.raises(KeyboardInterrupt):
    writing.write(tmp_path / 's', options, 40, workers=0)
  assert not (tmp_path / 's' / 'index.json').exists()
  monkeypatch.setattr(samples, 'make', real)
  store = writing.write(tmp_path / 's', options, 40, workers=0, resume=True)
  assert len(store) == 40
  np.testing.assert_array_equal(
    store.read(39)['opt/image'], real(options, 39).arrays['opt/image']
  )


def test_wrong_numbers_are_errors(options, tmp_path):
  with pytest.raises(ValueError, match='samples=0'):
    writing.write(tmp_path / 'a', options, 0, workers=0)
  with pytest.raises(ValueError, match='workers=-1'):
    list(writing.stream(options, range(4), workers=-1))
