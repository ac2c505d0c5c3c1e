"""Images with boxes: their files, lists, chips, in the layouts of data sets."""

import numpy as np
from PIL import Image
import pytest

from rsfm_jax.cli import main
from rsfm_jax.data import annotations
from rsfm_jax.data import store as stores
from rsfm_jax.data.datasets import dior
from rsfm_jax.data.datasets import fair1m
from rsfm_jax.data.synthetic import objects

BOX = np.array([[30, 20, 16, 8, 0.5, 0]], np.float32)
POINTS = objects.corners(BOX)[0]


def image(path, size=64):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(0).integers(1, 255, (size, size, 3))
  Image.fromarray(pixels.astype(np.uint8)).save(path)


def write(path, *inner, above=('', '')):
  path.parent.mkdir(parents=True, exist_ok=True)
  found = ''.join(f'<object>{item}</object>' for item in inner)
  path.write_text(f'<annotation>{above[0]}{found}{above[1]}</annotation>')


def bndbox(name, low, high):
  sides = dict(zip(('xmin', 'ymin', 'xmax', 'ymax'), (*low, *high)))
  inner = ''.join(f'<{k}>{v}</{k}>' for k, v in sides.items())
  return f'<name>{name}</name><difficult>0</difficult><bndbox>{inner}</bndbox>'


def robndbox(name, points):
  corners = ('left_top', 'right_top', 'right_bottom', 'left_bottom')
  inner = ''.join(
    f'<{axis}_{corner}>{value}</{axis}_{corner}>'
    for corner, point in zip(corners, points)
    for axis, value in zip('xy', point)
  )
  return f'<name>{name}</name><robndbox>{inner}</robndbox><angle>9</angle>'


def points_of(name, points):
  closed = [*points, points[0]]
  inner = ''.join(f'<point>{x:.6f},{y:.6f}</point>' for x, y in closed)
  return (
    f'<coordinate>pixel</coordinate><possibleresult><name>{name}</name>'
    f'</possibleresult><points>{inner}</points>'
  )


@pytest.fixture
def dior_copy(tmp_path):
  root = tmp_path / 'DIOR'
  for split, number in (('train', 1), ('val', 2), ('test', 11726)):
    name, part = f'{number:05d}', 'test' if split == 'test' else 'trainval'
    image(root / f'JPEGImages-{part}/{name}.jpg')
    folder = root / 'Annotations'
    write(
      folder / f'Horizontal Bounding Boxes/{name}.xml',
      bndbox('ship', (10, 20), (30, 26)),
      bndbox('Expressway-Service-area', (1, 2), (5, 12)),
    )
    write(
      folder / f'Oriented Bounding Boxes/{name}.xml', robndbox('ship', POINTS)
    )
    lists = root / 'ImageSets/Main'
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f'{split}.txt').write_text(f'{name}\n')
  return root


def pack(root, name, out):
  argv = ['data', 'pack', '--recipe', name, '--shared', str(root)]
  return main.main([*argv, '--out', str(out), '--workers', '1'])


def test_dior_gives_both_kinds_of_boxes(dior_copy, tmp_path):
  assert pack(dior_copy, 'dior', tmp_path / 'out') == 0
  flat = stores.Store(tmp_path / 'out' / 'dior')
  assert flat.column('id') == ['00001', '00002', '11726']
  assert flat.column('split') == ['train', 'val', 'test']
  assert flat.classes == list(dior.CLASSES) and len(dior.CLASSES) == 20
  wanted = [[20, 23, 20, 6, 0, 13], [3, 7, 4, 10, 0, 6]]
  assert flat.read(0)['boxes'].tolist() == wanted
  turned = stores.Store(tmp_path / 'out' / 'dior_r').read(2)
  np.testing.assert_allclose(turned['boxes'][:, :5], BOX[:, :5], atol=1e-4)
  assert turned['boxes'][0, 5] == 13
  assert turned['opt/image'].shape == (64, 64, 3)


def test_fair1m_is_cut_and_its_objects_go_with_their_centres(tmp_path):
  root = tmp_path / 'FAIR1M'
  far = POINTS + [600, 0]  # In the second and third of the columns' chips.
  for folder in ('train/part1', 'train/part2', 'validation'):
    image(root / folder / 'images/7.tif', 900)
    write(
      root / folder / 'labelXml/7.xml',
      points_of('Boeing737', POINTS),
      points_of('other-ship', far),
      above=('<source><filename>7.tif</filename></source><objects>',) * 1
      + ('</objects>',),
    )
  assert pack(root, 'fair1m', tmp_path / 'out') == 0
  store = stores.Store(tmp_path / 'out' / 'fair1m')
  assert len(fair1m.CLASSES) == 37 and store.classes == list(fair1m.CLASSES)
  ids = store.column('id')
  assert {name.rsplit('/', 1)[0] for name in ids} == {
    'train/part1/7',
    'train/part2/7',
    'validation/7',
  }
  split = dict(zip(ids, store.column('split')))
  assert split['validation/7/0_0'] == 'val'
  first = store.read(ids.index('train/part2/7/0_0'))['boxes']
  np.testing.assert_allclose(first[0, :5], BOX[0, :5], atol=1e-3)
  assert first[:, 5].tolist() == [19]
  second = store.read(ids.index('train/part2/7/0_384'))['boxes']
  np.testing.assert_allclose(second[0, :2], [30 + 600 - 384, 20], atol=1e-3)
  assert second[:, 5].tolist() == [4]
  assert store.read(ids.index('train/part2/7/388_0'))['boxes'].shape == (0, 6)


def told(**changes):
  return annotations.Annotations(
    **{
      'form': 'bndbox',
      'classes': ('ship', 'plane'),
      'images': r'(\w+)\.png',
      'beside': r'\1.xml',
    }
    | changes
  )


@pytest.mark.parametrize(
  'inner, words',
  [
    (bndbox('shop', (0, 0), (2, 2)), "'shop', none of .*ship"),
    ('<name>ship</name>', 'an object without xmin'),
    (robndbox('ship', POINTS), 'an object without xmin'),
    (bndbox('ship', ('x', 0), (2, 2)), 'could not convert'),
  ],
)
def test_what_cannot_be_read_names_its_file(tmp_path, inner, words):
  path = tmp_path / 'a.xml'
  write(path, inner)
  with pytest.raises(ValueError, match=f'a.xml: .*{words}'):
    annotations.read(str(path), told())


def test_an_empty_image_has_no_boxes(tmp_path):
  write(tmp_path / 'a.xml')
  assert annotations.read(str(tmp_path / 'a.xml'), told()).shape == (0, 6)


def test_lists_and_images_must_agree(tmp_path):
  image(tmp_path / 'a.png')
  with pytest.raises(ValueError, match='has no annotations'):
    annotations.scenes(str(tmp_path), told())
  write(tmp_path / 'a.xml')
  assert [s.id for s in annotations.scenes(str(tmp_path), told())] == ['a']
  divided = told(lists=(('train', 'train.txt'), ('val', 'val.txt')))
  with pytest.raises(ValueError, match="list of split 'train', is not there"):
    annotations.scenes(str(tmp_path), divided)
  (tmp_path / 'train.txt').write_text('a\nb\n')
  (tmp_path / 'val.txt').write_text('')
  with pytest.raises(ValueError, match=r"lacks 1 images .*\['b'\]"):
    annotations.scenes(str(tmp_path), divided)
  (tmp_path / 'val.txt').write_text('a\n')
  with pytest.raises(ValueError, match="a is in the split 'train' too"):
    annotations.scenes(str(tmp_path), divided)


def test_the_real_sample_of_trees_packs_with_its_boxes(shared, tmp_path):
  assert pack(shared, 'neon_trees', tmp_path) == 0
  store = stores.Store(tmp_path / 'neon_trees')
  count = {'TEAK_043': 28, 'TEAK_061': 40, 'TEAK_060': 4}
  for name, number in count.items():
    record = store.read(store.column('id').index(name))
    assert len(record['boxes']) == number
    assert record['opt/image'].shape == (400, 400, 3)
  assert store.column('split').count('test') == 3
