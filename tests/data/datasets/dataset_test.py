"""The form of a data set: what it finds, and what it refuses by name."""

import dataclasses
import zipfile

import numpy as np
import pytest

from rsfm_jax.data import masks
from rsfm_jax.data import pack
from rsfm_jax.data import recipe
from rsfm_jax.data import splits
from rsfm_jax.data import store as stores
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division
from rsfm_jax.data.datasets import layout
from rsfm_jax.data.datasets import registry
from rsfm_jax.sensors import catalogue
from tests.data.datasets import copies

OPT = catalogue.get('opt')
SCENES = dataset.Dataset(
  name='scenes',
  source='nowhere',
  recipe=recipe.Recipe(sensor='opt'),
  image='{label}/{id}.png',
  label='label',
  classes=('land', 'sea'),
  division=division.Lists(
    files={'train': 'train.txt', 'test': 'test.txt'}, where='the web'
  ),
  counts={'train': 2, 'test': 1},
)
MASKED = dataset.Dataset(
  name='masked',
  source='nowhere',
  recipe=recipe.Recipe(
    sensor='opt', mask=masks.Mask(classes=('a', 'b'), values=(1, 2))
  ),
  image='images/{id}.png',
  mask='masks/{id}.png',
  id='{id}',
)


def test_paths_and_what_they_hold_go_together():
  for what in ('mask', 'boxes'):
    with pytest.raises(ValueError, match=f"{what}='x', but recipe.{what}=None"):
      dataclasses.replace(SCENES, **{what: 'x'})


@pytest.fixture
def copy(tmp_path):
  root = tmp_path / 'copy'
  for i, path in enumerate(('land/a.png', 'sea/b.png', 'land/c.png')):
    copies.picture(root / path, 8, seed=i)
  copies.lists(root, {'train.txt': ['a.png', 'b.png'], 'test.txt': ['c.png']})
  return root


@pytest.fixture
def masked(tmp_path):
  root = tmp_path / 'masked'
  for i in range(2):
    copies.picture(root / f'images/{i}.png', 8)
    copies.png(root / f'masks/{i}.png', copies.halves(1, 2, 8))
  return root


def files(*names):
  return [(name, f'/x/{name}', 1) for name in names]


def test_scenes_have_labels_and_splits(copy):
  found = SCENES.scenes(str(copy))
  assert [(s.id, s.label, s.split) for s in found] == [
    ('land/a', 'land', 'train'),
    ('land/c', 'land', 'test'),
    ('sea/b', 'sea', 'train'),
  ]
  assert SCENES.task == 'classes' and MASKED.task == 'segmentation'


def test_a_zip_of_the_same_files_is_the_same(copy, tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
    for path in sorted(copy.rglob('*')):
      archive.write(path, f'deeper/{path.relative_to(copy)}')
  inside = SCENES.scenes(str(tmp_path / 'a.zip'))
  outside = SCENES.scenes(str(copy))
  told = lambda scenes: [(s.id, s.label, s.split) for s in scenes]
  assert told(inside) == told(outside)


def test_templates_tell_bands_apart_and_may_repeat():
  found = layout.match(
    files('in/p1/p1_B02.tif', 'in/p1/p1_B03.tif', 'p1/p2_B02.tif', 'p1/x.tif'),
    '{patch}/{patch}_{band}.tif',
    catalogue.get('sentinel2_l2a'),
  )
  assert [one.fields for one in found] == [{'patch': 'p1'}]
  assert [band for band, _ in found[0].files] == ['B02', 'B03']
  assert found[0].size == 2


def test_two_copies_of_a_file_are_ambiguous():
  twice = files('a/1.png', 'copy/a/1.png')
  with pytest.raises(ValueError, match='copy/a/1.png and /x/a/1.png are both'):
    layout.match(twice, '{label}/{id}.png', OPT)


def test_a_table_divides_instead_and_splits_may_come_later(copy):
  copies.text(
    copy / 'mine.csv',
    'file,split',
    'land/a.png,val',
    'sea/b.png,val',
    'land/c.png,train',
  )
  found = SCENES.scenes(str(copy), table=str(copy / 'mine.csv'))
  assert [scene.split for scene in found] == ['val', 'train', 'val']
  found = SCENES.scenes(str(copy), divided='later')
  assert {scene.split for scene in found} == {None}


def test_numbers_are_held_unless_it_is_a_part(copy):
  one = dataclasses.replace(SCENES, counts={'train': 16200, 'test': 5400})
  message = (
    r"copy has \{'train': 2, 'test': 1\} scenes of scenes.*16200.*--part"
  )
  with pytest.raises(ValueError, match=message):
    one.scenes(str(copy))
  assert len(one.scenes(str(copy), extent='part')) == 3
  one = dataclasses.replace(SCENES, counts={}, total=4)
  with pytest.raises(ValueError, match='tells of 4'):
    one.scenes(str(copy))


@pytest.mark.parametrize(
  'change, message',
  [
    ({'classes': ('land', 'see')}, r"b.png has the label 'sea'; .*\"see\""),
    ({'classes': ('land', 'sea', 'air')}, r"no scene of \['air'\]"),
    ({'image': '{id}/{label}.jpg'}, 'holds no {id}/{label}.jpg of scenes'),
    (
      {'division': division.Lists(files={'train': 'all.txt'}, where='the web')},
      'needs the file all.txt, published at the web',
    ),
    (
      {'division': division.Names(of={'train': ('z',)})},
      'divides none of its 3 scenes',
    ),
    ({'labels': 'number'}, 'a.png has the target land, no finite number'),
    ({'id': '{label}'}, 'several scenes are land'),
  ],
)
def test_what_does_not_fit_is_named(copy, change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(SCENES, **change).scenes(str(copy))


def test_splits_must_not_overlap(copy):
  copies.text(copy / 'test.txt', 'c.png', 'a.png')
  with pytest.raises(ValueError, match='a is in train.txt and in test.txt'):
    SCENES.scenes(str(copy))
  with pytest.raises(ValueError, match=r"\['a'\] are in several of the splits"):
    division.Names(of={'train': ('a',), 'test': ('a', 'b')})
  copies.text(copy / 'splits.csv', 'id,split', 'a,train', 'a,test')
  one = dataclasses.replace(SCENES, division=division.Table())
  with pytest.raises(ValueError, match='a is in two splits, train and test'):
    one.scenes(str(copy))


def test_a_missing_folder_or_mask_is_named(masked):
  with pytest.raises(ValueError, match='/nowhere is no folder'):
    MASKED.scenes('/nowhere')
  (masked / 'masks/1.png').unlink()
  with pytest.raises(ValueError, match='images/1.png has no masks/1.png'):
    MASKED.scenes(str(masked))


def test_geobench_partitions_that_overlap_are_refused(shared):
  samples = shared / 'data/eurosat_ms_samples/geobench_hdf5'
  with pytest.raises(ValueError, match='id_0000 is in train and in valid'):
    registry.get('m-eurosat@published').scenes(str(samples), extent='part')


@pytest.fixture
def packed(monkeypatch, tmp_path):
  """Packs a data set that the registry does not know."""
  monkeypatch.setattr(
    registry, '_DATASETS', {'masked': MASKED, 'scenes': SCENES}
  )

  def make(name, source, **changes):
    how = registry.get(name).recipe
    changes = {'split': splits.Policy(kind='table')} | changes
    job = pack.Job(
      dataset=name,
      source=str(source),
      recipe=dataclasses.replace(how, **changes),
    )
    pack.pack(job, tmp_path / 'store', on_bad='stop')
    return stores.Store(tmp_path / 'store')

  return make


def test_a_store_counts_classes_as_the_data_set_does(copy, packed):
  store = packed('scenes', copy)
  assert store.classes == ['land', 'sea']
  assert store.column('label') == [0, 0, 1]


@pytest.mark.parametrize(
  'mask, message',
  [
    (np.ones((8, 9), np.uint8), r'1.png has 8 x 9 pixels, its image 8 x 8'),
    (np.full((8, 8), 3, np.uint8), '1.png: 64 pixels are 3'),
  ],
)
def test_a_bad_mask_leaves_no_store(masked, packed, tmp_path, mask, message):
  copies.png(masked / 'masks/1.png', mask)
  with pytest.raises(ValueError, match=message):
    packed('masked', masked)
  assert not (tmp_path / 'store/index.json').exists()


def test_chips_label_every_pixel_once(tmp_path, packed):
  root = tmp_path / 'copy'
  rng = np.random.default_rng(0)
  codes = rng.integers(1, 3, (20, 13))
  copies.picture(root / 'images/0.png', 13)
  copies.Image.new('RGB', (13, 20), (9, 9, 9)).save(root / 'images/0.png')
  copies.png(root / 'masks/0.png', codes)
  store = packed('masked', root, chip=8)
  seen = np.zeros((20, 13), int)
  for i, id_ in enumerate(store.column('id')):
    top, left = map(int, id_.split('/')[1].split('_'))
    mask = store.read(i)['mask']
    known = mask != 255
    seen[top : top + 8, left : left + 8] += known
    expected = codes[top : top + 8, left : left + 8] - 1
    np.testing.assert_array_equal(mask[known], expected[known])
  assert len(store) == 6 and (seen == 1).all()
