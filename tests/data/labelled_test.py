"""Labelled batches: image and target cut alike, checked, a function of step."""

import numpy as np
import pytest

from rsfm_jax.data import labelled
from rsfm_jax.data import labelled_cut
from rsfm_jax.data import labelled_evaluation
from rsfm_jax.data import store as stores
from rsfm_jax.sensors import catalogue

SIZE = 12
OPT = catalogue.get('opt')
CODES = labelled_cut.Target(name='mask', kind='codes', classes=5)
CLASS = labelled_cut.Target(name='label', kind='class', classes=3)


def sample(rng, **arrays):
  """The red band says which code a pixel has: 40 times it."""
  mask = rng.integers(5, size=(SIZE, SIZE)).astype(np.uint8)
  image = np.stack([40 * mask, 0 * mask, 255 - mask], -1).astype(np.uint8)
  return {'opt/image': image, 'mask': mask} | arrays


def make(folder, changes=None, fields=None, count=9):
  """A store of three classes, two thirds of it for training."""
  rng = np.random.default_rng(0)
  with stores.StoreWriter(
    folder, sensors={'opt': OPT}, classes=['a', 'b', 'c']
  ) as writer:
    for i in range(count):
      arrays = sample(rng, **(changes(i) if changes else {}))
      given = {'split': 'train' if i < 6 else 'val', 'label': i % 3}
      writer.add(arrays, id=f's{i}', **given | (fields(i) if fields else {}))
  return stores.Store(folder)


def data(store, target=CODES, **options):
  return labelled.Labelled(
    store=store,
    sensor=OPT,
    target=target,
    statistics=store.statistics_of('opt'),
    **options,
  )


def first(one, window, *, seed=0, step=0, split='train'):
  found = labelled.batches(
    one,
    labelled.chosen(one, split),
    window=window,
    batch_size=4,
    seed=seed,
    step=step,
    threads=1,
  )
  return next(iter(found))


@pytest.fixture(scope='module')
def store(tmp_path_factory):
  return make(tmp_path_factory.mktemp('stores') / 'scenes')


def red(one, image):
  """Stored values of the red band."""
  of = one.statistics
  return image[..., 0] * of.std[0] + of.mean[0]


@pytest.mark.parametrize(
  'window',
  [
    labelled_cut.Window(size=SIZE, symmetry='d4', filter='nearest'),
    labelled_cut.Window(
      size=8, form='scale', scale=(0.8, 2.0), symmetry='d4', filter='nearest'
    ),
    labelled_cut.Window(size=8, form='area', symmetry='flip', filter='nearest'),
  ],
)
def test_image_and_mask_see_the_same_ground(store, window):
  one = data(store)
  batch = first(one, window)
  mask, image = batch['place']['target'], batch['opt']['image']
  assert mask.dtype == np.uint8 and mask.shape == (4, window.size, window.size)
  np.testing.assert_allclose(red(one, image), 40.0 * mask, atol=1e-2)
  assert batch['place']['valid'].all()


def test_batches_are_a_function_of_seed_and_step(store):
  window = labelled_cut.Window(size=8, form='area', symmetry='d4')
  one = data(store)
  at = lambda **options: first(one, window, **options)['opt']['image']
  assert (at(step=3) == at(step=3)).all()
  assert (at(step=3) != at(step=2)).any() and (at(seed=1) != at()).any()
  run = labelled.batches(
    one, labelled.chosen(one, 'train'), window=window, batch_size=4, seed=0
  )
  *_, fourth = (batch for batch, _ in zip(run, range(4)))
  assert (fourth['opt']['image'] == at(step=3)).all()


def test_evaluation_sees_a_split_once_and_says_what_is_padding(store):
  one = data(store)
  batches = list(labelled_evaluation.batches(one, 'val', 2))
  assert [b['place']['valid'].tolist() for b in batches] == [
    [True, True],
    [True, False],
  ]
  assert np.concatenate([b['place']['index'] for b in batches]).tolist() == [
    6, 7, 8, -1,
  ]  # fmt: skip
  whole = store.read(7)['mask']
  assert (batches[0]['place']['target'][1] == whole).all()


def test_tiles_cover_every_pixel_of_an_image_once(store):
  one = data(store)
  batches = list(
    labelled_evaluation.batches(one, 'val', 4, fit='tiles', size=8)
  )
  valid = np.concatenate([b['place']['valid'] for b in batches])
  index = np.concatenate([b['place']['index'] for b in batches])[valid]
  target = np.concatenate([b['place']['target'] for b in batches])[valid]
  assert index.tolist() == [6] * 4 + [7] * 4 + [8] * 4
  for i in (6, 7, 8):
    seen = target[index == i]
    counted = np.bincount(seen[seen != 255], minlength=5)
    whole = np.bincount(store.read(i)['mask'].ravel(), minlength=5)
    assert (counted == whole).all()


@pytest.mark.parametrize('shape', [(12, 12), (8, 8), (8, 21), (17, 9)])
def test_a_cover_leaves_no_hole_and_counts_nothing_twice(shape):
  counts = np.zeros(shape, int)
  for window in labelled_evaluation.cover(shape, 8):
    top, left = window.top, window.left
    assert top + 8 <= shape[0] and left + 8 <= shape[1]
    inner = (slice(top + window.rows, top + 8),
             slice(left + window.columns, left + 8))  # fmt: skip
    counts[inner] += 1
  assert (counts == 1).all()


def test_tiles_need_pixels_and_images_of_their_size(store):
  with pytest.raises(ValueError, match='evaluation.fit=tiles'):
    next(labelled_evaluation.batches(
      data(store, CLASS), 'val', 2, fit='tiles', size=8
    ))  # fmt: skip
  with pytest.raises(ValueError, match='smaller than data.window.size=16'):
    next(labelled_evaluation.batches(
      data(store), 'val', 2, fit='tiles', size=16
    ))  # fmt: skip


def test_the_last_date_of_a_series_serves_as_the_later_image(tmp_path):
  def series(i):
    dates = np.stack([np.full((SIZE, SIZE, 3), 10 * k + i) for k in range(3)])
    return {'opt/series': dates.astype(np.uint8)}

  store = make(tmp_path / 'series', series)
  one = data(store, pair='after')
  image = first(one, labelled_cut.Window(size=SIZE))['opt']['image']
  later = red(one, image[:, 1])
  assert (later.min() > 19) and (later.max() < 30)


def test_a_label_fraction_keeps_every_class(store):
  one = data(store, CLASS)
  half = labelled.chosen(one, 'train', fraction=0.5)
  assert store.labels('train')[half].tolist().count(0) == 1
  assert len(half) == 3
  assert (half == labelled.chosen(one, 'train', fraction=0.5)).all()
  few = labelled.chosen(one, 'train', fraction=0.01)
  assert sorted(store.labels('train')[few]) == [0, 1, 2]
  with pytest.raises(ValueError, match='data.label_fraction=0'):
    labelled.chosen(one, 'train', fraction=0)


def test_a_pair_has_an_axis_of_two_dates(tmp_path):
  later = lambda i: {'opt/after': np.full((SIZE, SIZE, 3), i, np.uint8)}
  store = make(tmp_path / 'pairs', later)
  batch = first(data(store, pair='after'), labelled_cut.Window(size=SIZE))
  image = batch['opt']['image']
  assert image.shape == (4, 2, SIZE, SIZE, 3)
  assert batch['opt']['pixel_valid'].shape == (4, 2, SIZE, SIZE)
  assert np.ptp(image[:, 1], axis=(1, 2)).max() == 0
  assert np.ptp(image[:, 0], axis=(1, 2)).max() > 0


def test_heights_may_be_nan_where_nobody_knows_them(tmp_path):
  height = np.full((SIZE, SIZE), 2.5, np.float32)
  height[0, 0] = np.nan
  store = make(tmp_path / 'heights', lambda i: {'height': height})
  target = labelled_cut.Target(name='height', kind='numbers')
  found = first(data(store, target), labelled_cut.Window(size=SIZE))
  assert np.isnan(found['place']['target']).sum() == 4


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'mask': np.full((SIZE, SIZE), 5, np.uint8)}, 'code 5'),
    ({'mask': np.zeros((SIZE, 7), np.uint8)}, 'pixels, the image'),
    ({'mask': np.zeros((SIZE, SIZE), np.int32)}, 'not uint8'),
  ],
)
def test_a_mask_that_does_not_fit_is_named(tmp_path, changes, words):
  one = data(make(tmp_path / 'bad', lambda i: changes))
  with pytest.raises(ValueError, match=rf's\d.*{words}'):
    first(one, labelled_cut.Window(size=SIZE))


def test_an_absent_array_or_later_image_is_named(store):
  target = labelled_cut.Target(name='height', kind='numbers')
  with pytest.raises(ValueError, match="data.target='height'"):
    first(data(store, target), labelled_cut.Window(size=SIZE))
  with pytest.raises(ValueError, match='opt/after'):
    first(data(store, pair='after'), labelled_cut.Window(size=SIZE))


@pytest.mark.parametrize(
  'label, target',
  [
    (3, CLASS),
    (None, CLASS),
    ([1, 0], labelled_cut.Target(name='label', kind='bits', classes=3)),
    ([1, 0, 2], labelled_cut.Target(name='label', kind='bits', classes=3)),
    (float('nan'), labelled_cut.Target(name='label', kind='number')),
  ],
)
def test_a_label_outside_the_classes_is_named(tmp_path, label, target):
  good = {'class': 0, 'bits': [0, 1, 1], 'number': 1.5}[target.kind]
  store = make(
    tmp_path / 'bad', fields=lambda i: {'label': label if i == 4 else good}
  )
  with pytest.raises(ValueError, match="'s4'"):
    first(data(store, target), labelled_cut.Window(size=SIZE))


def test_an_empty_class_is_named(tmp_path):
  store = make(tmp_path / 'two', fields=lambda i: {'label': i % 2})
  with pytest.raises(ValueError, match=r"no sample of the classes \['c'\]"):
    labelled.chosen(data(store, CLASS), 'train')


def test_a_target_of_the_wrong_place_is_refused():
  with pytest.raises(ValueError, match="data.target='mask'"):
    labelled_cut.Target(name='mask', kind='class', classes=3)
  with pytest.raises(ValueError, match="data.target='label'"):
    labelled_cut.Target(name='label', kind='codes', classes=3)


def test_a_target_of_two_dates_is_cut_as_its_images_are(tmp_path):
  rng = np.random.default_rng(1)

  def later(i):
    one = sample(rng)
    return {'opt/after': one['opt/image'], 'mask_after': one['mask']}

  both = labelled_cut.Target(name='mask', kind='codes', classes=5, pair='after')
  one = data(make(tmp_path / 's', later), both, pair='after')
  window = labelled_cut.Window(size=5, form='scale', symmetry='d4')
  batch = first(one, window)
  target = batch['place']['target']
  assert target.shape == (4, *both.shape(5)) == (4, 2, 5, 5)
  mean, std = (getattr(one.statistics, n)[0] for n in ('mean', 'std'))
  red = batch['opt']['image'][..., 0] * std + mean
  np.testing.assert_allclose(red, 40.0 * target, atol=1e-3)
  assert (target[:, 0] != target[:, 1]).any()
  alone = data(make(tmp_path / 't'), both)
  with pytest.raises(ValueError, match="'mask_after'"):
    first(alone, window)


BOXES = labelled_cut.Target(name='boxes', kind='boxes', classes=2, count=3)


def bright(i):
  """A bright rectangle, of which `boxes` tells in seven columns."""
  image = np.full((SIZE, SIZE, 3), 10, np.uint8)
  image[2:5, 3 + i % 3 : 9 + i % 3] = 200
  box = [6 + i % 3, 3.5, 6, 3, 0, 1, -1]
  return {'opt/image': image, 'boxes': np.array([box, [0] * 5 + [-1] * 2])}


@pytest.mark.parametrize('kind', labelled_cut.BOXES)
@pytest.mark.parametrize('form', ['whole', 'scale'])
def test_boxes_stay_around_what_they_are_around(tmp_path, kind, form):
  one = data(
    make(tmp_path / 's', bright),
    labelled_cut.Target(name='boxes', kind=kind, classes=2, count=3),
  )
  window = labelled_cut.Window(
    size=24, form=form, scale=(2, 2.4), symmetry='d4', filter='nearest'
  )
  batch = first(one, window)
  target, image = batch['place']['target'], red(one, batch['opt']['image'])
  assert target.shape == (4, 3, 6) and target.dtype == np.float32
  assert (target[:, 1:, 5] == -1).all()
  for (cx, cy, w, h, angle, label), pixels in zip(target[:, 0], image):
    if label == -1:
      continue
    assert pixels[int(cy), int(cx)] == pytest.approx(200, abs=1)
    upright = abs(np.sin(angle)) > 0.5
    w, h = (h, w) if upright else (w, h)
    inside = pixels > 100
    assert inside.any(0).sum() == pytest.approx(w, abs=2)
    assert inside.any(1).sum() == pytest.approx(h, abs=2)
  assert (target[:, 0, 5] == 1).any()


@pytest.mark.parametrize(
  'boxes, words',
  [
    (np.zeros((2, 5)), r'boxes has shape \(2, 5\)'),
    (np.full((1, 6), 2.0), 'boxes has class 2, but there are 2 classes'),
    (np.full((4, 6), 1.0), r'4 boxes are more than config.data.max_boxes=3'),
  ],
)
def test_boxes_that_do_not_fit_are_named(tmp_path, boxes, words):
  store = make(tmp_path / 's', lambda i: {'boxes': boxes.astype(np.float32)})
  with pytest.raises(ValueError, match=f's.: {words}'):
    first(data(store, BOXES), labelled_cut.Window(size=SIZE))


def test_boxes_need_a_number_of_rows():
  with pytest.raises(ValueError, match='config.data.max_boxes=0'):
    labelled_cut.Target(name='boxes', kind='boxes', classes=2)
