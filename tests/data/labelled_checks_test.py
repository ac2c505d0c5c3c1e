"""What may not be a benchmark is refused by name."""

import json
import shutil

import numpy as np
import pytest

from rsfm_jax.data import labelled_checks
from rsfm_jax.data import store as stores
from rsfm_jax.sensors import catalogue

SPLITS = ('train', 'train', 'val', 'test')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Four scenes of two classes."""
  path = tmp_path_factory.mktemp('stores') / 'scenes'
  sensor = catalogue.get('opt')
  with stores.StoreWriter(
    path, sensors={'opt': sensor}, classes=('land', 'sea')
  ) as writer:
    for i, split in enumerate(SPLITS):
      image = np.full((4, 4, 3), i, np.uint8)
      writer.add(
        {'opt/image': image},
        id=f's{i}',
        split=split,
        label=i % 2,
        crs='EPSG:32632',
        bounds=[10 * i, 0, 10 * i + 10, 10],
      )
  return path


def changed(folder, tmp_path, change):
  out = tmp_path / 'changed'
  shutil.copytree(folder, out)
  index = json.loads((out / 'index.json').read_text())
  change(index['samples'], index)
  (out / 'index.json').write_text(json.dumps(index))
  return stores.Store(out)


def test_a_sound_store_passes(folder):
  labelled_checks.check(stores.Store(folder))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      lambda s, i: s['label'].__setitem__(2, 2),
      r"label 2 of sample 's2' \(split 'val'\) is none of the 2 classes",
    ),
    (lambda s, i: s['label'].__setitem__(2, -1), "label -1 of sample 's2'"),
    (lambda s, i: s['label'].__setitem__(2, 0.5), "label 0.5 of sample 's2'"),
    (
      lambda s, i: s['label'].__setitem__(3, None),
      "sample 's3' of split 'test' has no label",
    ),
    (
      lambda s, i: s['label'].__setitem__(1, 0),
      r"split 'train' has no sample of \['sea'\]",
    ),
    (lambda s, i: s['split'].__setitem__(3, 'val'), "'test'"),
    (
      lambda s, i: s['id'].__setitem__(3, 's0'),
      "'train' and 'test' overlap: they share the sample of 's0'",
    ),
    (
      lambda s, i: s['bounds'].__setitem__(2, s['bounds'][1]),
      "'train' and 'val' overlap: they share the ground of 's2'",
    ),
  ],
)
def test_what_means_nothing_is_refused(folder, tmp_path, change, message):
  store = changed(folder, tmp_path, change)
  with pytest.raises(ValueError, match=message):
    labelled_checks.check(store)


def relabel(samples, index, *, labels):
  samples.update(label=labels)


def test_bits_are_held_against_the_classes(folder, tmp_path):
  bits = [[1, 0], [1, 1], [0, 1], [0, 0]]
  store = changed(folder, tmp_path, lambda s, i: s.update(label=bits))
  labelled_checks.check(store)
  rare = [[1, 0], [1, 0], [0, 1], [0, 0]]
  for name, labels, message in (
    ('a', [[1, 0, 1], *bits[1:]], "sample 's0'"),
    ('b', rare, r"no sample of \['sea'\]"),
  ):
    (tmp_path / name).mkdir()
    store = changed(
      folder,
      tmp_path / name,
      lambda s, i, labels=labels: s.update(label=labels),
    )
    with pytest.raises(ValueError, match=message):
      labelled_checks.check(store)


def test_other_dates_of_one_split_may_share_ground(folder, tmp_path):
  store = changed(
    folder,
    tmp_path,
    lambda s, i: s['bounds'].__setitem__(1, s['bounds'][0]),
  )
  labelled_checks.check(store)
