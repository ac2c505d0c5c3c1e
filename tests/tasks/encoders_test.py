"""Encoders of a task: images, series and several sensors as features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import once
from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import encoder
from rsfm_jax.models import sizes
from rsfm_jax.tasks import encoders

HR, SAR = 'opt', 'sentinel1_grd'
SPEC = sizes.skysense_v2_spec(
  'tiny',
  sensors=(HR, SAR),
  channels=(3, 2),
  reduces=((True,) * 3, (False,) * 3),
  image_sizes=(32, 4),
  embed_dim=8,
  depths=(1, 1, 1, 1),
  heads=(1, 1, 1, 1),
  experts=2,
  moe_layers=1,
  prompts=1,
  fusion_dim=8,
  fusion_depth=1,
  fusion_heads=1,
  prototypes_dim=0,
)
DATES, BATCH = 2, 2


@pytest.fixture(scope='module')
def params():
  draw = np.random.default_rng(0)
  make = lambda name, x: (
    jnp.ones(x.shape)
    if name.endswith('scale')
    else jnp.asarray(draw.normal(0, 0.2, x.shape), jnp.float32)
  )
  return trees.map_named(make, build.build(SPEC).abstract)


def entry(sensor, side, bands, dates):
  draw = np.random.default_rng(len(sensor))
  shape = (BATCH, dates, side, side)
  return {
    'image': draw.normal(size=(*shape, bands)).astype(np.float32),
    'band_valid': np.ones((BATCH, bands), bool),
    'pixel_valid': np.ones(shape, bool),
    'date_valid': np.ones((BATCH, dates), bool),
    'day': draw.integers(365, size=(BATCH, dates)).astype(np.int32),
    'valid': np.ones(BATCH, bool),
  }


def batch():
  return {HR: entry(HR, 32, 3, 1), SAR: entry(SAR, 4, 2, DATES)}


encode = encoders.tiles(SPEC, size=(16, 16))
features = once.jit(lambda p, x: encode(p, x, mode='eval').maps)


def test_a_series_of_one_date_is_one_image(params):
  alone = {HR: batch()[HR]}
  found = features(params, alone)
  single = encoders.single(SPEC)
  image = {HR: {'image': alone[HR]['image'][:, 0]}}
  want = once.jit(lambda p, x: single(p, x, mode='eval').maps)(params, image)
  for level, one in want.items():
    np.testing.assert_allclose(
      found[f'{HR}/{level}'], one, rtol=1e-5, atol=1e-6, err_msg=level
    )
  # And the fusion sees it as the series that it is.
  side = 32 // SPEC.stride(HR)
  assert found['fused'].shape == (BATCH, side, side, SPEC.fusion_dim)


def test_features_say_how_large_the_target_is(params):
  seen = []

  def ask(params, given):
    found = encode(params, given, mode='eval')
    seen.append(found.size)
    return found.maps

  abstract = jax.eval_shape(ask, params, batch())
  assert seen == [(16, 16)]
  assert set(abstract) == {'fused'} | {
    f'{sensor}/{level}'
    for sensor in (HR, SAR)
    for level in encoder.stage_names(SPEC)
  }


def test_what_a_mask_hides_changes_no_bit_of_scores_and_gradients(params):
  """Pixels, bands, dates, and a sensor that a sample lacks."""
  clean = batch()
  clean[HR]['pixel_valid'][0, 0, 3:9, :5] = False
  clean[HR]['band_valid'][1, 2] = False
  clean[SAR]['date_valid'][0, 1] = False
  clean[SAR]['valid'][1] = False
  clean[SAR]['date_valid'][1] = False
  hidden = {
    s: ~(
      e['pixel_valid'][..., None]
      & (e['date_valid'] & e['valid'][:, None])[..., None, None, None]
      & e['band_valid'][:, None, None, None]
    )
    for s, e in clean.items()
  }

  def loss(params, given):
    out = encode(params, given, mode='train', key=jax.random.key(0))
    total = sum(jnp.square(x).mean() for x in out.maps.values())
    return total, out.maps

  run = once.jit(jax.value_and_grad(loss, has_aux=True))
  (_, want), slope = run(params, clean)
  for junk in (np.nan, np.inf):
    dirty = {
      s: e | {'image': np.where(hidden[s], np.float32(junk), e['image'])}
      for s, e in clean.items()
    }
    assert not all(np.isfinite(e['image']).all() for e in dirty.values())
    (_, found), again = run(params, dirty)
    for one, other in ((want, found), (slope, again)):
      jax.tree.map(np.testing.assert_array_equal, one, other)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((want, slope)))
