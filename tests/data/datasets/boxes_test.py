"""Data sets of boxes: tiny copies in the layouts that are published."""

import shutil

import numpy as np
import pytest

from rsfm_jax.data import annotations
from rsfm_jax.data.datasets import registry
from tests.data.datasets import box_copies
from tests.data.datasets import registry_test

BOX = box_copies.BOX


def pack(name, folder, maker, **changes):
  return registry_test.pack_copy(name, folder, maker=maker, **changes)


def test_dior_has_upright_boxes_and_its_lists(tmp_path):
  store = pack('dior', tmp_path, box_copies.dior)
  assert store.column('id') == ['00001', '00002', '11726']
  assert store.column('split') == ['train', 'val', 'test']
  assert store.classes == list(registry.get('dior').names)
  wanted = [[20, 23, 20, 6, 0, 13], [3, 7, 4, 10, 0, 6]]
  assert store.read(0)['boxes'].tolist() == wanted


def test_dior_r_has_the_turned_boxes_of_the_same_copy(tmp_path):
  record = pack('dior_r', tmp_path, box_copies.dior).read(2)
  np.testing.assert_allclose(record['boxes'][:, :5], BOX[:, :5], atol=1e-4)
  assert record['boxes'][0, 5] == 13
  assert record['opt/image'].shape == (64, 64, 3)


def test_an_archive_has_the_same_boxes(tmp_path):
  one = registry.get('dior')
  box_copies.dior(tmp_path / 'copy')
  archive = shutil.make_archive(tmp_path / 'DIOR', 'zip', tmp_path / 'copy')

  def told(source):
    return [
      (s.id, s.split, annotations.read(s.boxes, one.recipe.boxes).tolist())
      for s in one.scenes(str(source), extent='part')
    ]

  assert told(archive) == told(tmp_path / 'copy')
  assert len(told(archive)) == 3


def test_fair1m_is_cut_and_its_objects_go_with_their_centres(tmp_path):
  store = pack('fair1m', tmp_path, box_copies.fair1m)
  assert store.classes == list(registry.get('fair1m').names)
  ids = store.column('id')
  assert {name.rsplit('/', 1)[0] for name in ids} == {
    'part1/7',
    'part2/7',
    'validation/7',
  }
  split = dict(zip(ids, store.column('split')))
  assert split['validation/7/0_0'] == 'val'
  assert split['part1/7/0_0'] == split['part2/7/0_0'] == 'train'
  first = store.read(ids.index('part2/7/0_0'))['boxes']
  np.testing.assert_allclose(first[0, :5], BOX[0, :5], atol=1e-3)
  assert first[:, 5].tolist() == [19]
  second = store.read(ids.index('part2/7/0_384'))['boxes']
  np.testing.assert_allclose(second[0, :2], [30 + 600 - 384, 20], atol=1e-3)
  assert second[:, 5].tolist() == [4]
  assert store.read(ids.index('part2/7/388_0'))['boxes'].shape == (0, 6)


def test_what_is_missing_is_named(tmp_path):
  one, root = registry.get('dior'), tmp_path / 'DIOR'
  box_copies.dior(tmp_path)
  with pytest.raises(ValueError, match=r"'train': 1, .*of dior.*5862.*--part"):
    one.scenes(str(root))
  (root / 'Annotations/Horizontal Bounding Boxes/00002.xml').unlink()
  message = '00002.jpg has no Annotations/Horizontal Bounding Boxes/00002.xml'
  with pytest.raises(ValueError, match=message):
    one.scenes(str(root), extent='part')
  (root / 'ImageSets/Main/val.txt').unlink()
  with pytest.raises(ValueError, match='needs the file ImageSets/Main/val.txt'):
    one.scenes(str(root), extent='part')
