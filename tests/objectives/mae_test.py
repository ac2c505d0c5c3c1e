"""Masked autoencoding of several sensors: masks, errors, balance, NaN."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import mapex_spec
from rsfm_jax.moe import balance
from rsfm_jax.moe import layer as moe_layer
from rsfm_jax.objectives import mae

KEY = jax.random.key(0)
# Not in the order of the alphabet, in which a jitted dict comes back.
MODEL = mapex_spec.MapexSpec(
  sensors=('rgb', 'nir', 'sar'),
  channels=(3, 1, 2),
  image_size=8,
  patch_size=4,
  embed_dim=8,
  depth=2,
  heads=2,
  mlp_ratio=2.0,
  experts=(3,),
  decoder_dim=8,
  decoder_depth=1,
  decoder_heads=2,
)
SIDE = MODEL.grid


def batch(size=4, seed=0, present=None):
  rng = np.random.default_rng(seed)
  out = {}
  for sensor, channels in zip(MODEL.sensors, MODEL.channels, strict=True):
    image = rng.standard_normal((size, 8, 8, channels)).astype(np.float32)
    out[sensor] = {
      'image': image,
      'band_valid': np.ones((size, channels), bool),
      'pixel_valid': np.ones((size, 8, 8), bool),
      'valid': np.ones(size, bool),
    }
  for sensor, rows in (present or {}).items():
    out[sensor]['band_valid'] &= np.array(rows)[:, None]
  return out


def objective(encode=None, **changes):
  encode = encode or build.build(MODEL).apply
  return mae.MAE(mae.MAESpec(**changes), encode, MODEL)


@functools.cache
def params():
  rng = np.random.default_rng(0)
  draw = lambda name, leaf: jnp.asarray(
    0.4 * rng.standard_normal(leaf.shape) + name.endswith('scale'), leaf.dtype
  )
  return trees.map_named(draw, build.build(MODEL).abstract)


def test_a_quarter_of_the_tokens_that_are_there_is_kept():
  noise = jax.random.uniform(KEY, (3, 24))
  present = np.ones((3, 24), bool)
  present[1, 5:] = False
  present[2] = False
  found = mae.mask(noise, jnp.asarray(present), 0.25)
  assert found.kept.shape == (3, 6)
  assert found.kept.sum(1).tolist() == [6, 1, 0]
  order = np.asarray(found.order)
  for row, there in enumerate(present):
    assert sorted(order[row]) == list(range(24))
    first = order[row, : there.sum()]
    assert there[first].all()
    assert (np.diff(np.asarray(noise)[row, first]) > 0).all()


def test_every_number_and_every_subset_of_sensors_is_as_likely():
  there = np.tile([True, True, False, True], (6000, 1))
  kept = np.asarray(mae.kept_sensors(jnp.asarray(there), KEY))
  assert not kept[:, 2].any()
  numbers = kept.sum(1)
  shares = [(numbers == n).mean() for n in (1, 2, 3)]
  np.testing.assert_allclose(shares, 1 / 3, atol=0.03)
  np.testing.assert_allclose(kept[:, [0, 1, 3]].mean(0), 2 / 3, atol=0.03)
  nothing = mae.kept_sensors(jnp.zeros((5, 4), bool), KEY)
  assert not nothing.any()


def test_patches_are_normalised_over_what_counts():
  rng = np.random.default_rng(0)
  pixels = rng.standard_normal((5, 12)).astype(np.float32)
  counts = rng.random((5, 12)) < 0.7
  got = mae.normalised(jnp.where(counts, pixels, jnp.nan), jnp.asarray(counts))
  for row, here, out in zip(pixels, counts, np.asarray(got), strict=True):
    value = row[here]
    want = (value - value.mean()) / np.sqrt(value.var(ddof=1) + 1e-6)
    np.testing.assert_allclose(out[here], want, rtol=1e-4, atol=1e-5)
    assert (out[~here] == 0).all()


class Made(NamedTuple):
  """What the objective reads of a model's output."""

  reconstruction: dict
  aux: dict | None = None


def test_the_loss_is_the_mean_over_all_removed_patches_of_all_sensors():
  rng = np.random.default_rng(1)
  made = {
    s: jnp.asarray(rng.standard_normal((4, SIDE, SIDE, 16 * c)), 'float32')
    for s, c in zip(MODEL.sensors, MODEL.channels, strict=True)
  }
  seen = {}

  def encode(params, images, *, tokens_valid, masking, **kw):
    seen.update(valid=tokens_valid, masking=masking)
    return Made(made)

  given = batch(present={'nir': [True, False, True, True]})
  given['rgb']['pixel_valid'][2, :3] = False
  task = objective(encode)
  loss, aux = task.loss({}, {}, given, KEY)
  order = np.asarray(seen['masking'].order)
  number = np.asarray(seen['masking'].kept).sum(1)
  every, mine, start = [], {}, 0
  for sensor in MODEL.sensors:
    entry, mine[sensor] = given[sensor], []
    for b in range(4):
      for t in range(SIDE * SIDE):
        i, j = divmod(t, SIDE)
        if not seen['valid'][sensor][b, i, j]:
          continue
        if list(order[b]).index(start + t) < number[b]:
          continue
        cut = np.s_[b, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        counts = np.broadcast_to(
          entry['pixel_valid'][cut][..., None] & entry['band_valid'][b],
          entry['image'][cut].shape,
        ).reshape(-1)
        value = entry['image'][cut].reshape(-1)
        kept = value[counts]
        target = (kept - kept.mean()) / np.sqrt(kept.var(ddof=1) + 1e-6)
        guess = np.asarray(made[sensor][b, i, j])[counts]
        mine[sensor].append(np.square(guess - target).mean())
    every += mine[sensor]
    start += SIDE * SIDE
  np.testing.assert_allclose(loss, np.mean(every), rtol=1e-4)
  for sensor in MODEL.sensors:
    np.testing.assert_allclose(
      aux['losses'][sensor], np.mean(mine[sensor]), rtol=1e-4
    )
  assert not np.asarray(seen['valid']['nir'][1]).any()


def test_the_masks_of_a_sensor_do_not_hang_on_the_others():
  task = objective(sensor_dropout='none')
  every = task.draw(task.counts(batch()), KEY)
  alone = task.draw(task.counts({'nir': batch()['nir']}), KEY)
  first = 4  # Of the union: after the tokens of rgb.
  mine = [
    [t - first for t in row if first <= t < first + 4]
    for row in np.asarray(every.masking.order)
  ]
  assert mine == np.asarray(alone.masking.order).tolist()


@pytest.fixture(scope='module')
def gradient():
  task = objective()
  step = lambda batch: jax.value_and_grad(task.loss, has_aux=True)(
    params(), {}, batch, KEY
  )
  return jax.jit(step)


def test_what_stands_under_masks_changes_no_bit(gradient):
  given = batch(present={'sar': [True, True, False, True]})
  given['rgb']['pixel_valid'][1, 2:5, 1:7] = False
  given['nir']['valid'][3] = False
  given['sar']['band_valid'][0, 1] = False
  spoilt = {
    s: entry | {'image': entry['image'].copy()} for s, entry in given.items()
  }
  spoilt['rgb']['image'][1, 2:5, 1:7] = np.nan
  spoilt['nir']['image'][3] = np.inf
  spoilt['sar']['image'][2] = np.nan
  spoilt['sar']['image'][0, ..., 1] = -np.inf
  want, got = gradient(given), gradient(spoilt)
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(want))


def test_what_is_logged(gradient):
  (loss, aux), grads = gradient(batch())
  losses = aux['losses']
  assert set(losses) == {*MODEL.sensors, 'importance', 'load', 'z'}
  assert aux['routing']['routed_load'].shape == (1, 3, 3)
  assert aux['routing']['mutual_information'].shape == (1,)
  np.testing.assert_allclose(
    aux['routing']['routed_load'].sum(-1), 1, rtol=1e-5
  )
  apart = [losses[s] for s in MODEL.sensors]
  assert min(apart) <= float(loss) <= max(apart) + 0.01 * 4
  # Everything learns, but for what only an absent key would use.
  flat = trees.flatten(grads)
  still = [n for n, g in flat.items() if not np.asarray(g).any()]
  assert all(n.endswith('key/bias') for n in still), still


def test_balance_is_of_the_mixed_batch():
  """Each sensor with an expert of its own is balance; one for all is not."""
  task = objective()

  def statistics(rows):
    rows = jnp.asarray(rows, jnp.float32)[None]
    zero = jnp.zeros(1)
    return moe_layer.Statistics(
      demand=balance.Demand(rows, rows),
      z=zero,
      chosen=rows,
      preferred=rows,
      gate=rows,
      salience=rows,
      dropped=zero,
      entropy=zero,
      tokens=rows.sum(-1),
    )

  loss = lambda **rows: task._balance(
    {s: statistics(row) for s, row in rows.items()}
  )
  added, parts = loss(rgb=[8, 0, 0], nir=[0, 8, 0], sar=[0, 0, 8])
  assert float(parts['importance']) == float(parts['load']) == 0 == added
  added, parts = loss(rgb=[8, 0, 0], nir=[8, 0, 0], sar=[8, 0, 0])
  np.testing.assert_allclose(parts['importance'], 2)
  np.testing.assert_allclose(added, 0.005 * 2 + 0.005 * 2, rtol=1e-6)


def test_a_dense_model_has_no_balance():
  shape = (4, SIDE, SIDE)
  made = {
    s: jnp.zeros((*shape, 16 * c))
    for s, c in zip(MODEL.sensors, MODEL.channels, strict=True)
  }
  task = objective(lambda *a, **k: Made(made))
  loss, aux = task.loss({}, {}, batch(), KEY)
  assert set(aux['losses']) == set(MODEL.sensors) and aux['routing'] == {}
  # A prediction of zeros misses a unit variance of 15 in 16 or less.
  assert 0.9 < float(loss) < 1


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (dict(keep_ratio=1.0), 'objective.keep_ratio=1.0'),
    (dict(sensor_dropout='some'), 'objective.sensor_dropout'),
    (dict(target='pixel'), 'Did you mean "pixels"'),
  ],
)
def test_bad_values_are_named_by_their_key(change, words):
  with pytest.raises(ValueError, match=words):
    mae.MAESpec(**change)
