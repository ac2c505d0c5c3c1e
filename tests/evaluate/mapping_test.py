"""Windows through a model give what the whole scene gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.data import mosaic
from rsfm_jax.evaluate import mapping

REACH = 3  # Pixels that the model looks around.
TOLERANCE = 1e-6


@jax.jit
def model(image):
  """Means over (2 REACH + 1)^2 pixels, zero beyond the border."""
  side = 2 * REACH + 1
  total = jax.lax.reduce_window(
    image, 0.0, jax.lax.add, (1, side, side, 1), (1, 1, 1, 1), 'SAME'
  )
  return total / side**2


@jax.jit
def tokens(image):
  """Means of squares of 4 x 4 pixels, without a look around."""
  batch, height, width, channels = image.shape
  split = batch, height // 4, 4, width // 4, 4, channels
  return image.reshape(split).mean((2, 4))


class Map:
  """A scene in memory and the map that is made of it."""

  def __init__(self, plan, channels=2):
    rng = np.random.default_rng(0)
    shape = plan.height * plan.cell, plan.width * plan.cell
    self.image = rng.normal(size=(*shape, channels)).astype(np.float32)
    self.valid = rng.random(shape) > 0.1
    self.map = np.full((plan.height, plan.width, channels), np.nan)
    self.seen = np.zeros((plan.height, plan.width), bool)
    self.done = []

  def read(self, w):
    rows = slice(w.row, w.row + w.height)
    columns = slice(w.column, w.column + w.width)
    image, valid = self.image[rows, columns], self.valid[rows, columns]
    pad = (0, w.height - len(image)), (0, w.width - image.shape[1])
    return np.pad(image, (*pad, (0, 0))), np.pad(valid, pad)

  def write(self, w, values, valid, number):
    rows = slice(w.row, w.row + w.height)
    columns = slice(w.column, w.column + w.width)
    self.map[rows, columns] = values
    self.seen[rows, columns] = valid
    self.done.append(number)


def make(plan, scene, run=model, **options):
  return mapping.make(
    plan,
    read=scene.read,
    model=run,
    write=scene.write,
    batch_size=3,
    **options,
  )


def plan(stride, *, halo=REACH, height=47, width=53, size=20, **changes):
  return mosaic.Mosaic(
    height=height,
    width=width,
    size=size,
    stride=stride,
    halo=halo,
    panel=25,
    **changes,
  )


@pytest.mark.parametrize('stride', [5, 9, 14])
def test_tiled_equals_untiled(stride):
  scene = Map(plan(stride))
  make(plan(stride), scene)
  want = model(scene.image[None])[0]
  np.testing.assert_allclose(scene.map, want, atol=TOLERANCE)
  np.testing.assert_array_equal(scene.seen, scene.valid)


def test_images_of_larger_pixels_are_cut_at_the_same_ground():
  cells = mosaic.Mosaic(
    height=12, width=9, size=5, stride=2, halo=1, cell=4, panel=6
  )
  scene = Map(cells)
  coarse = np.random.default_rng(1).normal(size=(24, 18, 3)).astype(np.float32)

  def read(w):
    image, valid = scene.read(w)
    top, left, height, width = (side // 2 for side in w)
    part = coarse[top : top + height, left : left + width]
    pad = (0, height - len(part)), (0, width - part.shape[1]), (0, 0)
    return {'fine': image, 'coarse': np.pad(part, pad)}, valid

  @jax.jit
  def both(images):
    half = jnp.repeat(jnp.repeat(images['coarse'], 2, 1), 2, 2)
    return tokens(images['fine'] + half[..., :2])

  mapping.make(cells, read=read, model=both, write=scene.write, batch_size=3)
  want = both({'fine': scene.image[None], 'coarse': coarse[None]})[0]
  np.testing.assert_allclose(scene.map, want, atol=TOLERANCE)


def test_a_halo_that_is_too_small_shows():
  scene = Map(plan(14, halo=REACH - 1))
  make(plan(14, halo=REACH - 1), scene)
  gap = np.abs(scene.map - model(scene.image[None])[0])
  assert gap.max() > 1e-3
  inside = gap[:16, :16]  # Of the first window alone.
  assert inside.max() < TOLERANCE


def test_a_scene_smaller_than_a_window_is_padded():
  small = plan(14, height=11, width=13)
  scene = Map(small)
  make(small, scene)
  want = model(scene.image[None])[0]
  np.testing.assert_allclose(scene.map, want, atol=TOLERANCE)


def test_cells_of_several_pixels_are_valid_where_any_pixel_is():
  coarse = plan(2, halo=1, height=12, width=9, size=5, cell=4)
  scene = Map(coarse)
  scene.valid[:8, :8] = False
  make(coarse, scene, tokens)
  want = tokens(scene.image[None])[0]
  np.testing.assert_allclose(scene.map, want, atol=TOLERANCE)
  assert not scene.seen[:2, :2].any() and scene.seen[2:, 2:].all()


@pytest.mark.parametrize('done', [1, 3, 6])
def test_a_resumed_map_has_the_bits_of_one_that_was_not_stopped(done):
  one, two = Map(plan(9)), Map(plan(9))
  make(plan(9), one)
  make(plan(9), two, done=done)
  assert two.done == list(range(done, len(plan(9))))
  there = ~np.isnan(two.map)
  assert there.any() and not there.all()
  np.testing.assert_array_equal(two.map[there], one.map[there])


def test_every_window_is_told_of():
  told, scene = [], Map(plan(9))
  make(plan(9), scene, advance=told.append)
  assert sum(told) == sum(len(s.columns) for s in plan(9).steps())


@pytest.mark.parametrize('part', ['read', 'write'])
def test_a_fault_of_a_thread_comes_out(part, monkeypatch):
  scene = Map(plan(9))

  def broken(*args):
    raise ValueError('the disk is gone')

  monkeypatch.setattr(scene, part, broken)
  with pytest.raises(ValueError, match='the disk is gone'):
    make(plan(9), scene)


def test_waiting_is_measured():
  scene = Map(plan(9))
  found = make(plan(9), scene, lambda x: jnp.zeros((*x.shape[:3], 2)))
  assert 0 <= found.reading + found.writing
  assert found.seconds > 0 and found.share < 10
