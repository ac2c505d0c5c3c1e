"""Patches, merging and depth to space, place by place."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.nn import patches

FLOAT32 = 2e-6


def normalise(x, eps):
  x = np.asarray(x, np.float64)
  centred = x - x.mean(-1, keepdims=True)
  return centred / np.sqrt(x.var(-1, keepdims=True) + eps)


def test_space_to_depth_is_row_column_channel():
  x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
  y = patches.space_to_depth(x, 2)
  assert y.shape == (2, 2, 3, 12)
  x, y = np.asarray(x), np.asarray(y)
  for i, j, r, c, k in itertools.product(*map(range, (2, 3, 2, 2, 3))):
    assert y[1, i, j, (r * 2 + c) * 3 + k] == x[1, 2 * i + r, 2 * j + c, k]


def test_depth_to_space_undoes_it():
  x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
  there = patches.space_to_depth(x, 2)
  np.testing.assert_array_equal(patches.depth_to_space(there, 2), x)


def test_patch_embed_is_a_strided_convolution_and_a_norm():
  embed = patches.PatchEmbed(3, 8, 4, key=jax.random.key(0), std=0.5)
  embed.bias[...] = jax.random.normal(jax.random.key(1), (8,))
  image = jax.random.normal(jax.random.key(2), (2, 8, 12, 3))
  convolved = jax.lax.conv_general_dilated(
    image,
    embed.kernel[...],
    (4, 4),
    'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  ) + embed.bias[...].reshape(1, 1, 1, -1)
  np.testing.assert_allclose(
    embed(image), normalise(convolved, 1e-6), rtol=1e-5, atol=FLOAT32
  )


def test_merging_reads_down_before_right_and_norms_after():
  merging = patches.PatchMerging(3, key=jax.random.key(0), std=0.5)
  x = np.asarray(jax.random.normal(jax.random.key(1), (2, 4, 6, 3)))
  order = [(0, 0), (1, 0), (0, 1), (1, 1)]
  expected = np.zeros((2, 2, 3, 6))
  for b, i, j in itertools.product(range(2), range(2), range(3)):
    four = np.concatenate([x[b, 2 * i + r, 2 * j + c] for r, c in order])
    expected[b, i, j] = four @ np.asarray(merging.kernel[...], np.float64)
  np.testing.assert_allclose(
    merging(jnp.asarray(x)), normalise(expected, 1e-4), rtol=1e-5, atol=1e-5
  )


def test_the_norms_of_embed_and_merging_have_their_own_eps():
  """With variances near eps a wrong eps is a large error."""
  x = jax.random.normal(jax.random.key(1), (1, 4, 4, 3))
  embed = patches.PatchEmbed(3, 8, 2, key=jax.random.key(0), std=0.5)
  flat = patches.space_to_depth(1e-3 * x, 2)
  expected = normalise(flat @ embed.kernel[...].reshape(12, 8), 1e-6)
  np.testing.assert_allclose(embed(1e-3 * x), expected, rtol=1e-4, atol=1e-4)
  merging = patches.PatchMerging(3, key=jax.random.key(0), std=0.5)
  whole = merging(x)
  small = merging(1e-3 * x)
  ratio = np.abs(np.asarray(small)).max() / np.abs(np.asarray(whole)).max()
  assert ratio < 0.2


@pytest.mark.parametrize(('height', 'width'), [(5, 4), (4, 5)])
def test_odd_sizes_are_errors_that_name_the_size(height, width):
  x = jnp.zeros((1, height, width, 3))
  with pytest.raises(ValueError, match=f'{height} x {width} pixels'):
    patches.PatchEmbed(3, 8, 2, key=jax.random.key(0))(x)
  with pytest.raises(ValueError, match=f'{height} x {width} tokens'):
    patches.PatchMerging(3, key=jax.random.key(0))(x)


def test_no_std_means_one_over_the_root_of_the_fan_in():
  embed = patches.PatchEmbed(8, 64, 4, key=jax.random.key(0), std=None)
  # A normal cut at two sigma keeps 0.88 of its standard deviation.
  assert abs(embed.kernel[...].std() * 128**0.5 - 0.88) < 0.03


def adaptive(dim=3):
  merging = patches.AdaptivePatchMerging(dim, key=jax.random.key(0), std=0.5)
  merging.norm.bias[...] = jax.random.normal(jax.random.key(1), (2 * dim,))
  return merging


def test_adaptive_merging_places_its_kernel_and_keeps_by_the_mean():
  merging = adaptive()
  x = np.asarray(jax.random.normal(jax.random.key(2), (2, 4, 6, 3)))
  kernel = np.asarray(merging.kernel[...], np.float64)
  reduced, kept = np.zeros((2, 2, 3, 6)), np.zeros((2, 4, 6, 6))
  for i, j in itertools.product(range(4), range(6)):
    reduced[:, i // 2, j // 2] += x[:, i, j] @ kernel[i % 2, j % 2]
    kept[:, i, j] = x[:, i, j] @ kernel.mean((0, 1))
  bias = np.asarray(merging.norm.bias[...])
  for mode, expected in (('reduce', reduced), ('keep', kept)):
    np.testing.assert_allclose(
      merging(jnp.asarray(x), mode),
      normalise(expected, 1e-5) + bias,
      rtol=1e-4,
      atol=1e-4,
    )


def test_a_constant_image_gives_the_same_on_both_paths():
  merging = adaptive()
  pixel = jax.random.normal(jax.random.key(3), (1, 1, 1, 3))
  x = jnp.broadcast_to(pixel, (1, 4, 4, 3))
  reduced, kept = merging(x, 'reduce'), merging(x, 'keep')
  np.testing.assert_allclose(
    kept, jnp.broadcast_to(reduced[:, :1, :1], kept.shape), atol=1e-4
  )


def test_adaptive_merging_says_what_it_cannot_do():
  merging = adaptive()
  x = jnp.zeros((1, 5, 4, 3))
  assert merging(x, 'keep').shape == (1, 5, 4, 6)
  with pytest.raises(ValueError, match='5 x 4 tokens'):
    merging(x, 'reduce')
  with pytest.raises(ValueError, match='Did you mean "reduce"'):
    merging(x, 'reduces')
