"""Queries read what counts; the same query is compared across views."""

import functools
import math

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.objectives import dino
from rsfm_jax.objectives import semantic
from rsfm_jax.sharding import mesh as mesh_lib

RNG = np.random.default_rng(0)
B, M, S, D, K = 8, 3, 5, 8, 6
draw = lambda *shape: jnp.asarray(RNG.standard_normal(shape), 'float32')
TOKENS = draw(B, S, D)
VALID = jnp.asarray(RNG.random((B, S)) < 0.7).at[0].set(False).at[1].set(True)


@functools.cache
def queries(depth=1):
  made = semantic.Queries(M, D, 2, depth=depth, key=jax.random.key(0))
  graphdef, params = nnx.split(made)
  return jax.jit(lambda *args: nnx.merge(graphdef, params)(*args))


@pytest.mark.parametrize('depth', [1, 2])
def test_every_query_gives_one_vector_per_sample(depth):
  out = queries(depth)(TOKENS, VALID)
  assert out.shape == (B, M, D)
  assert (out[1, 0] != out[1, 1]).any() and (out[1] != out[2]).any()


def test_padding_changes_no_bit_and_samples_without_tokens_are_finite():
  clean = queries()(TOKENS, VALID)
  spoiled = jnp.where(VALID[..., None], TOKENS, jnp.nan)
  np.testing.assert_array_equal(queries()(spoiled, VALID), clean)
  assert jnp.isfinite(clean).all()


def test_the_order_of_tokens_does_not_matter():
  turned = queries()(TOKENS[:, ::-1], VALID[:, ::-1])
  np.testing.assert_allclose(turned, queries()(TOKENS, VALID), atol=1e-6)


def test_the_paper_has_sixteen_queries_and_one_layer_of_1024():
  make = lambda: semantic.Queries(16, 1024, 16, key=jax.random.key(0))
  state = nnx.eval_shape(lambda: nnx.state(make()))
  sizes = (math.prod(x.shape) for x in jax.tree.leaves(state))
  assert sum(sizes) == 16_796_672 + 16 * 1024
  with pytest.raises(ValueError, match='queries.m=0'):
    semantic.Queries(0, 8, 2, key=jax.random.key(0))


def test_maps_say_where_each_query_looks():
  made = semantic.Queries(M, D, 2, depth=2, key=jax.random.key(0))
  maps = made.maps(TOKENS, VALID)
  assert maps.shape == (B, 2, M, S)
  np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-6)
  asked = made.layer_0(made.start(TOKENS), TOKENS, VALID)
  expected = made.layer_1.maps(asked, TOKENS, VALID)
  np.testing.assert_allclose(maps, expected, atol=1e-6)
  outside = jnp.where(VALID[1:, None, None], 0, maps[1:])
  assert not outside.any()


STUDENT = semantic.Aggregated(draw(B, M, D), draw(B, M, D))
TEACHER = semantic.Aggregated(draw(B, M, D), draw(B, M, D))
KERNELS = draw(2, D, K)
WEIGHTS = jnp.asarray([1, 0, 1, 1, 1, 0, 1, 1], bool)


@functools.partial(jax.jit, static_argnames='kind')
def step(student, teacher, weights=WEIGHTS, kind='centring'):
  def loss(student, teacher, kernels):
    out = semantic.loss(
      student,
      teacher,
      weights=weights,
      student_head=lambda x: dino.Vectors(x, kernels[0]),
      teacher_head=lambda x: dino.Vectors(x, kernels[1]),
      teacher_temperature=0.5,
      targets=dino.TargetSpec(kind=kind, student_temperature=0.7),
      centre=jnp.zeros(K) if kind == 'centring' else None,
    )
    return out.value, out

  gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
  return gradients(student, teacher, KERNELS)


def test_the_loss_by_hand_over_queries_and_both_directions():
  (value, out), _ = step(STUDENT, TEACHER)
  rows = []
  for s, t in (
    (STUDENT.of_global, TEACHER.of_local),
    (STUDENT.of_local, TEACHER.of_global),
  ):
    for b, m in np.ndindex(B, M):
      if WEIGHTS[b]:
        wanted = jax.nn.softmax(t[b, m] @ KERNELS[1] / 0.5)
        said = jax.nn.log_softmax(s[b, m] @ KERNELS[0] / 0.7)
        rows.append(-float((wanted * said).sum()))
  np.testing.assert_allclose(value, np.mean(rows), rtol=1e-5)
  assert out.centre.any() and out.watch['rows'] == len(rows)


@pytest.mark.parametrize('kind', ['centring', 'sinkhorn'])
def test_the_teacher_learns_nothing_and_uncounted_samples_change_no_bit(kind):
  clean = step(STUDENT, TEACHER, kind=kind)
  d_student, d_teacher, d_kernels = clean[1]
  assert d_student.of_global.any() and d_student.of_local.any()
  assert not any(g.any() for g in d_teacher)
  assert d_kernels[0].any() and not d_kernels[1].any()
  assert jnp.isfinite(d_kernels).all()
  spoil = lambda x: jnp.where(WEIGHTS[:, None, None], x, jnp.nan)
  spoiled = step(*jax.tree.map(spoil, (STUDENT, TEACHER)), kind=kind)
  jax.tree.map(np.testing.assert_array_equal, clean, spoiled)


def test_without_samples_the_loss_is_zero():
  (value, _), gradients = step(STUDENT, TEACHER, jnp.zeros(B))
  assert value == 0
  assert not any(g.any() for g in jax.tree.leaves(gradients))


def test_eight_devices_give_what_one_gives():
  whole = step(STUDENT, TEACHER, WEIGHTS, kind='sinkhorn')
  cut = mesh_lib.batch_sharding(mesh_lib.make_mesh())
  given = jax.device_put((STUDENT, TEACHER, WEIGHTS), cut)
  spread = step(*given, kind='sinkhorn')
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
    whole,
    spread,
  )


def test_looks_are_the_softmax_of_queries_and_keys():
  """From parameters alone, as a checkpoint holds them; by hand for one head."""
  made = semantic.Queries(3, 8, 1, key=jax.random.key(0), std=0.5)
  params = nnx.to_pure_dict(nnx.split(made)[1])
  tokens = jax.random.normal(jax.random.key(1), (2, 5, 8))
  got = semantic.looks(params, tokens, heads=1)
  layer, z = made.layer_0, made.start(tokens)
  asked = layer.norm_2(z + layer.self_attention(layer.norm_1(z)))
  q = layer.cross_attention.query(asked) * 8**-0.5
  k = layer.cross_attention.key(tokens)
  want = jax.nn.softmax(jnp.einsum('bmd,bsd->bms', q, k))
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert np.ptp(got) > 0.01
  valid = jnp.array([[True] * 5, [True, True, False, True, False]])
  hidden = jnp.where(valid[..., None], tokens, jnp.nan)
  got = semantic.looks(params, hidden, heads=1, valid=valid)
  assert (got[1][:, ~valid[1]] == 0).all()
  np.testing.assert_allclose(got.sum(-1), 1, rtol=1e-6)
