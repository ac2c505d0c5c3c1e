"""RoIAlign against a direct bilinear loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.tasks.detection import anchors
from rsfm_jax.tasks.detection import roi_align

STRIDES = (2.0, 4.0)


def bilinear(grid, y, x):
  height, width, _ = grid.shape
  if not (-1 <= y <= height and -1 <= x <= width):
    return np.zeros(grid.shape[-1])
  y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
  top, left = int(y), int(x)
  low, right = min(top + 1, height - 1), min(left + 1, width - 1)
  y, x = y - top, x - left
  upper = grid[top, left] * (1 - x) + grid[top, right] * x
  lower = grid[low, left] * (1 - x) + grid[low, right] * x
  return upper * (1 - y) + lower * y


def slow(maps, roi, size, points):
  cx, cy, w, h, angle = roi
  level = int(np.sqrt(w * h) >= 2 * 14 * STRIDES[0])
  grid, stride = maps[level], STRIDES[level]
  out = np.zeros((size, size, grid.shape[-1]))
  for i in range(size):
    for j in range(size):
      for a in range(points):
        for b in range(points):
          v = ((i + (a + 0.5) / points) / size - 0.5) * h
          u = ((j + (b + 0.5) / points) / size - 0.5) * w
          x = cx + u * np.cos(angle) - v * np.sin(angle)
          y = cy + u * np.sin(angle) + v * np.cos(angle)
          out[i, j] += bilinear(grid, y / stride - 0.5, x / stride - 0.5)
  return out / points**2


@pytest.mark.parametrize('points', [1, 2])
def test_regions_are_sampled_as_in_the_loop(points):
  rng = np.random.default_rng(0)
  maps = [rng.normal(size=(2, n, n, 3)).astype(np.float32) for n in (20, 10)]
  rois = np.zeros((2, 6, 5), np.float32)
  rois[..., :2] = rng.uniform(0, 40, (2, 6, 2))
  rois[..., 2:4] = rng.uniform(3, 90, (2, 6, 2))
  rois[:, ::2, 4] = rng.uniform(-1.5, 1.5, (2, 3))
  level = np.asarray(roi_align.levels(jnp.asarray(rois), STRIDES))
  assert set(level.ravel()) == {0, 1}
  found = jax.jit(
    lambda m, r: roi_align.align(m, STRIDES, r, size=3, points=points)
  )(maps, rois)
  for b in range(2):
    for r in range(6):
      wanted = slow([m[b] for m in maps], rois[b, r], 3, points)
      np.testing.assert_allclose(found[b, r], wanted, atol=1e-4)


def test_gradients_reach_the_maps_and_not_the_regions():
  maps = [jnp.ones((1, 8, 8, 2)), jnp.ones((1, 4, 4, 2))]
  rois = jnp.asarray([[[8.0, 8.0, 6.0, 6.0, 0.2]]])
  total = lambda m, r: roi_align.align(m, STRIDES, r, size=2, points=2).sum()
  of_maps, of_rois = jax.grad(total, argnums=(0, 1))(maps, rois)
  # Four bins of two channels, weights of each sum to 1.
  assert float(of_maps[0].sum()) == pytest.approx(8, abs=1e-4)
  assert not of_maps[1].any() and not of_rois.any()


def test_anchors_stand_at_whole_strides_with_equal_areas():
  found = anchors.grid((2, 3), 4, scale=2, ratios=(0.5, 1.0, 2.0))
  assert found.shape == (18, 5)
  np.testing.assert_allclose(found[:, 2] * found[:, 3], 64, rtol=1e-6)
  np.testing.assert_allclose(found[0, 3] / found[0, 2], 0.5, rtol=1e-6)
  assert found[::3, 0].tolist() == [0, 4, 8] * 2
  assert found[::3, 1].tolist() == [0] * 3 + [4] * 3
  whole = anchors.inside(found, (40, 40))
  # The square of 8 pixels at (4, 4) reaches the border, and not beyond it.
  assert np.flatnonzero(whole).tolist() == [
    i for i, (x, y, w, h, _) in enumerate(found) if x >= w / 2 and y >= h / 2
  ]
