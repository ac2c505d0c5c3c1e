"""Streaming statistics against NumPy on everything at once."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.sensors import statistics

BOUND = 2.0**-8  # Of the percentiles, relative; see the module's docstring.


def images(dtype: str) -> list[np.ndarray]:
  """Skewed images of several sizes and levels, negative where possible."""
  rng = np.random.default_rng(0)
  signed = np.dtype(dtype).kind != 'u'
  scale = 20.0 if np.dtype(dtype).itemsize == 1 else 800.0
  found = []
  for size, shift in ((17, 0.0), (300, 0.4), (64, 1.0)):
    image = rng.gamma(2.0, scale, (size, size, 3)) * (1.0, 0.5, 0.1)
    image += scale * shift - (scale if signed else 0.0)
    top = 100 if np.dtype(dtype).itemsize == 1 else 30000
    found.append(image.clip(-top if signed else 0, top).astype(dtype))
  return found


def accumulated(batch, masks=None) -> statistics.Accumulator:
  accumulator = statistics.Accumulator(('a', 'b', 'c'))
  for i, image in enumerate(batch):
    accumulator.update(image, None if masks is None else masks[i])
  return accumulator


def check(result: statistics.Statistics, pixels: np.ndarray):
  """pixels: [N, 3], all that should have been counted."""
  pixels = pixels.astype(np.float64)
  assert result.count == (len(pixels),) * 3
  np.testing.assert_allclose(result.mean, pixels.mean(0), rtol=1e-12)
  np.testing.assert_allclose(result.std, pixels.std(0), rtol=1e-10)
  np.testing.assert_array_equal(result.minimum, pixels.min(0))
  np.testing.assert_array_equal(result.maximum, pixels.max(0))
  for q in statistics.PERCENTILES:
    expected = np.percentile(pixels, q, axis=0)
    # Integers lie less than one step from their neighbour in rank.
    np.testing.assert_allclose(
      result.percentiles[str(q)], expected, rtol=BOUND, atol=1e-6
    )


@pytest.mark.parametrize(
  'dtype',
  'uint8 int8 uint16 int16 int32 uint32 int64 float16 float32 float64'.split(),
)
def test_statistics_equal_numpy(dtype):
  batch = images(dtype)
  pixels = np.concatenate([image.reshape(-1, 3) for image in batch])
  check(accumulated(batch).result(), pixels)


def test_moments_are_exact_far_from_zero():
  rng = np.random.default_rng(1)
  image = 1e6 + rng.normal(size=(300, 300, 3))
  result = accumulated([image]).result()
  np.testing.assert_allclose(result.std, image.std((0, 1)), rtol=1e-9)


@pytest.mark.parametrize('dtype', ['uint16', 'float32'])
def test_only_valid_pixels_count(dtype):
  batch = images(dtype)
  rng = np.random.default_rng(2)
  masks = [rng.random(image.shape[:2]) > 0.3 for image in batch]
  pixels = np.concatenate([i[m] for i, m in zip(batch, masks)])
  check(accumulated(batch, masks).result(), pixels)


def test_what_lies_under_the_mask_changes_no_bit():
  batch = images('float32')
  masks = [np.indices(i.shape[:2]).sum(0) % 3 > 0 for i in batch]
  clean = accumulated(batch, masks).to_json()
  for poison in (np.nan, np.inf, -np.inf, 3e38):
    dirty = [np.where(m[..., None], i, poison) for i, m in zip(batch, masks)]
    assert all(i.dtype == np.float32 for i in dirty)
    assert accumulated(dirty, masks).to_json() == clean


def test_non_finite_valid_pixels_are_left_out_per_band():
  image = images('float32')[1]
  image[:10, :, 1] = np.nan
  image[0, 0, 2] = np.inf
  result = accumulated([image]).result()
  n = image.shape[0] * image.shape[1]
  assert result.count == (n, n - 10 * image.shape[1], n - 1)
  np.testing.assert_allclose(result.mean[1], image[10:, :, 1].mean(), rtol=1e-5)
  assert np.isfinite(result.std).all()


def test_merging_parts_equals_seeing_all():
  batch = images('float32')
  whole = accumulated(batch).result()
  parts = accumulated(batch[:1])
  parts.merge(accumulated(batch[1:]))
  merged = parts.result()
  np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
  np.testing.assert_allclose(merged.std, whole.std, rtol=1e-10)
  assert merged.percentiles == whole.percentiles
  assert merged.count == whole.count


def test_integers_and_floats_merge_into_one_sketch():
  image = images('uint16')[1]
  both = accumulated([image, image.astype(np.float32)]).result()
  check(both, np.concatenate([image.reshape(-1, 3)] * 2))


def test_state_survives_json_and_goes_on():
  batch = images('float32')
  text = json.dumps(accumulated(batch[:2]).to_json(), allow_nan=False)
  resumed = statistics.Accumulator.from_json(json.loads(text))
  resumed.update(batch[2])
  assert resumed.to_json() == accumulated(batch).to_json()
  assert len(text) < 60_000  # Small enough for a store's index.


def test_a_damaged_state_is_an_error():
  state = accumulated(images('uint8')).to_json()
  for damage in (
    {'format': 'other/1'},
    {'histograms': state['histograms'][:2]},
    {'histograms': ['AAAA'] * 3},
    {'histograms': state['histograms'][::-1], 'moments': [None] * 3},
  ):
    with pytest.raises(ValueError, match='not an accumulator state'):
      statistics.Accumulator.from_json(state | damage)


def test_no_valid_pixel_gives_zeros_and_json_can_say_so():
  image = images('float32')[0]
  empty = accumulated([image], [np.zeros(image.shape[:2], bool)])
  result = empty.result()
  assert result.count == (0, 0, 0)
  assert result.mean == (0.0, 0.0, 0.0)
  text = json.dumps([empty.to_json(), result.to_json()], allow_nan=False)
  state, _ = json.loads(text)
  again = statistics.Accumulator.from_json(state)
  again.merge(accumulated([image]))
  assert again.to_json() == accumulated([image]).to_json()


def test_a_percentile_on_the_step_between_two_values_takes_the_right_one():
  for low in (95, 96):
    image = np.zeros((1, 101, 3), np.uint8)
    image[:, low:] = 100
    result = accumulated([image]).result()
    check(result, image.reshape(-1, 3))


def test_a_constant_band_has_no_spread():
  result = accumulated([np.full((50, 50, 3), 7.3, np.float32)]).result()
  np.testing.assert_allclose(result.std, 0.0, atol=1e-6)
  np.testing.assert_allclose(result.percentiles['50'], 7.3, rtol=1e-6)


@pytest.mark.parametrize(
  'image, valid, message',
  [
    (np.zeros((4, 4, 2)), None, '2 channels last'),
    (np.zeros((4, 4, 3)), np.ones((4, 5), bool), 'does not cover'),
    (np.zeros((4, 4, 3), complex), None, 'I and Q'),
  ],
)
def test_what_does_not_fit_is_refused(image, valid, message):
  with pytest.raises(ValueError, match=message):
    accumulated([image], [valid])


def test_other_bands_do_not_merge():
  with pytest.raises(ValueError, match='cannot merge'):
    accumulated([]).merge(statistics.Accumulator(('a', 'b')))


def test_statistics_survive_json_and_select_by_name():
  result = accumulated(images('float32')).result()
  text = json.dumps(result.to_json())
  assert statistics.Statistics.from_json(json.loads(text)) == result
  picked = result.select(('c', 'a'))
  assert picked.mean == (result.mean[2], result.mean[0])
  assert picked.percentiles['5'][0] == result.percentiles['5'][2]
  with pytest.raises(ValueError, match='B11'):
    result.select(('a', 'B11'))
  with pytest.raises(ValueError, match='not band statistics'):
    statistics.Statistics.from_json({'mean': [0.0]})


@pytest.mark.parametrize('dtype', ['uint16', 'float32'])
def test_normalise_gives_zero_mean_unit_std_and_back(dtype):
  image = images(dtype)[1]
  stats = accumulated([image]).result()
  unit = statistics.normalise(image, stats)
  assert unit.dtype == np.float32
  np.testing.assert_allclose(unit.mean((0, 1), dtype=float), 0, atol=1e-4)
  np.testing.assert_allclose(unit.std((0, 1), dtype=float), 1, atol=1e-4)
  back = statistics.denormalise(unit, stats)
  np.testing.assert_allclose(back, image, rtol=1e-5, atol=1e-3)


def test_normalise_is_the_same_in_numpy_and_under_jit():
  image = images('float32')[1][None]  # [1, H, W, C]: ranks never promote.
  stats = accumulated([image[0]]).result()
  jitted = jax.jit(lambda x: statistics.normalise(x, stats))
  here = statistics.normalise(image, stats)
  there = jitted(jnp.asarray(image))
  assert isinstance(there, jax.Array)
  np.testing.assert_allclose(here, there, rtol=1e-6, atol=1e-6)


def test_a_constant_band_normalises_to_zero():
  image = np.full((4, 4, 3), 5.0, np.float32)
  unit = statistics.normalise(image, accumulated([image]).result())
  np.testing.assert_array_equal(unit, 0)


def test_normalise_refuses_other_channels():
  stats = accumulated(images('float32')).result()
  with pytest.raises(ValueError, match='4 channels'):
    statistics.normalise(np.zeros((2, 2, 4)), stats)


@pytest.mark.parametrize('dtype', ['?', 'i1', 'u1', 'i2', 'u2', '>i2', '>u2'])
def test_small_integers_are_counted_exactly(dtype):
  rng = np.random.default_rng(0)
  if dtype == '?':
    image = rng.integers(0, 2, (64, 64, 3)).astype(bool)
  else:
    info = np.iinfo(dtype)
    image = rng.integers(info.min, info.max, (64, 64, 3), endpoint=True)
    image = image.astype(dtype)
  found = statistics.Accumulator('abc')
  found.update(image[:10])
  found.update(image[10:])
  again = statistics.Accumulator.from_json(found.to_json())
  pixels = image.reshape(-1, 3).astype(np.float64)
  for result in (found.result(), again.result()):
    np.testing.assert_allclose(result.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.std, pixels.std(0), rtol=1e-12)
    assert result.minimum == tuple(pixels.min(0))
    assert result.maximum == tuple(pixels.max(0))
    middle = np.percentile(pixels, 50, axis=0)
    np.testing.assert_allclose(
      result.percentiles['50'], middle, rtol=2**-8, atol=1e-30
    )


def test_integers_in_other_portions_give_the_same_bits(monkeypatch):
  image = np.random.default_rng(0).integers(0, 60000, (64, 64, 2), np.uint16)
  whole, parts = (statistics.Accumulator('ab') for _ in range(2))
  whole.update(image)
  for row in image:
    parts.update(row)
  assert parts.to_json() == whole.to_json()
  monkeypatch.setattr(statistics, '_COUNTED', 100)  # Before sums overflow.
  settled = statistics.Accumulator('ab')
  for row in image:
    settled.update(row)
  assert not settled._counts
  np.testing.assert_allclose(settled.result().std, whole.result().std)
