"""Erasing and mixup: by the key alone, and no more than asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.tasks import losses
from rsfm_jax.tasks import mixing

ERASE = mixing.MixingSpec(erasing=0.5, erasing_area=(0.1, 0.3))
KEY = jax.random.key(3)


def images(count=64, size=16):
  return 1 + jax.random.uniform(jax.random.key(0), (count, size, size, 2))


def test_erasing_zeros_one_rectangle_of_about_half_of_the_images():
  image = images()
  found = np.asarray(mixing.erase(image, ERASE, key=KEY))
  lost = (found == 0).all(-1)
  assert (found == np.where(lost[..., None], 0, image)).all()
  touched = lost.any((1, 2))
  assert 0.25 < touched.mean() < 0.75
  for one in lost[touched]:
    rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
    assert one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert 0.05 < one.mean() < 0.4  # Whole pixels of 0.1 to 0.3.


def test_erasing_is_a_function_of_the_key():
  image = images(8)
  one, again, other = (
    mixing.erase(image, ERASE, key=jax.random.key(k)) for k in (1, 1, 2)
  )
  assert (one == again).all() and (one != other).any()


def test_both_dates_of_a_pair_lose_the_same_ground():
  pair = jnp.stack([images(32), images(32)], 1)
  found = mixing.erase(pair, ERASE, key=KEY)
  assert ((found[:, 0] == 0) == (found[:, 1] == 0)).all()
  assert (found == 0).any()


def test_a_mixed_image_is_its_share_of_itself_and_of_its_partner():
  image = images(4)
  spec = mixing.MixingSpec(mixup=0.8)
  mixed = mixing.mix(image, spec, key=KEY)
  assert 0 < mixed.share < 1
  want = mixed.share * image[0] + (1 - mixed.share) * image[3]
  np.testing.assert_allclose(mixed.image[0], want, rtol=1e-6)
  never = mixing.MixingSpec(mixup=0.8, mixup_probability=0.0)
  assert (mixing.mix(image, never, key=KEY).image == image).all()


def test_mixing_losses_is_mixing_one_hot_targets():
  logits = jax.random.normal(jax.random.key(1), (4, 3))
  labels, share = jnp.array([0, 1, 2, 2]), 0.3
  mixed = share * losses.cross_entropy(logits, labels)
  mixed += (1 - share) * losses.cross_entropy(logits, mixing.partners(labels))
  soft = jax.nn.one_hot(labels, 3)
  soft = share * soft + (1 - share) * soft[::-1]
  want = -(soft * jax.nn.log_softmax(logits)).sum(-1).mean()
  np.testing.assert_allclose(mixed, want, rtol=1e-6)


@pytest.mark.parametrize(
  'options',
  [
    {'erasing': -0.1},
    {'mixup': -1.0},
    {'erasing_area': (0.5, 0.1)},
    {'erasing_area': (0.5, 1.1)},
  ],
)
def test_a_wrong_spec_is_named_by_its_key(options):
  with pytest.raises(ValueError, match=f'mixing.{next(iter(options))}'):
    mixing.MixingSpec(**options)
