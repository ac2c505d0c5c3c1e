"""The decoder layer: counts, order of norms, what does not count."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.nn import decoder

FLOAT32 = 3e-6
DIM = 8


def layer(norm='pre', dim=DIM, heads=2, **options):
  return decoder.DecoderLayer(
    dim, heads, norm=norm, std=None, key=jax.random.key(0), **options
  )


def rows(tokens, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.standard_normal((2, tokens, DIM)), 'float32')


def test_skysense_v2_s_layer_has_16_796_672_parameters():
  made = nnx.eval_shape(lambda: layer(dim=1024, heads=16))
  state = nnx.to_pure_dict(nnx.state(made))
  assert trees.count(state) == 16_796_672


@pytest.mark.parametrize('norm', decoder.NORMS)
def test_the_order_is_self_attention_memory_ffn(norm):
  made = layer(norm)
  x, memory = rows(3), rows(5, seed=1)
  parts = [
    made.self_attention,
    lambda y: made.cross_attention(y, memory),
    made.ffn,
  ]
  expected = x
  for part, ln in zip(
    parts, [made.norm_1, made.norm_2, made.norm_3], strict=True
  ):
    if norm == 'pre':
      expected = expected + part(ln(expected))
    else:
      expected = ln(expected + part(expected))
  np.testing.assert_allclose(made(x, memory), expected, atol=FLOAT32)


@pytest.mark.parametrize('norm', decoder.NORMS)
def test_memory_that_does_not_count_changes_no_bit(norm):
  made = layer(norm)
  valid = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 1, 1]], bool)
  x, memory = rows(3), rows(5, seed=1)
  dirty = jnp.where(valid[..., None], memory, jnp.nan)
  np.testing.assert_array_equal(made(x, dirty, valid), made(x, memory, valid))
  short = made(x[:1], memory[:1, valid[0]])
  np.testing.assert_allclose(made(x, memory, valid)[:1], short, atol=FLOAT32)


def test_queries_do_not_depend_on_the_order_of_the_memory():
  made = layer()
  x, memory = rows(3), rows(5, seed=1)
  turned = memory[:, ::-1]
  np.testing.assert_allclose(made(x, memory), made(x, turned), atol=FLOAT32)


@pytest.mark.parametrize('norm', decoder.NORMS)
def test_maps_are_those_of_the_cross_attention(norm):
  made = layer(norm)
  x, memory = rows(3), rows(5, seed=1)
  maps = made.maps(x, memory)
  assert maps.shape == (2, 2, 3, 5)
  # With values of one direction per token, what comes out are the maps.
  seen = []

  def spy(y, *args):
    seen.append(y)
    return jnp.zeros_like(y)

  cross, made.cross_attention = made.cross_attention, spy
  made(x, memory)
  np.testing.assert_allclose(maps, cross.weights(seen[0], memory), atol=FLOAT32)


def test_an_unknown_norm_is_named():
  with pytest.raises(ValueError, match="norm='prenorm'.*Did you mean"):
    layer('prenorm')
