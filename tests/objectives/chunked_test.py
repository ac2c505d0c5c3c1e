"""Chunks of rows give what all rows at once give, in less memory."""

import functools
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.objectives import chunked
from rsfm_jax.objectives import dino
from rsfm_jax.objectives import sinkhorn
from rsfm_jax.sharding import mesh as mesh_lib

RNG = np.random.default_rng(0)
B, R, D, K = 8, 7, 4, 10
CHUNK = 3  # Does not divide R.
draw = lambda *shape: jnp.asarray(RNG.standard_normal(shape), 'float32')
ROWS = dino.unit(draw(2, B, R, D))
DIRECTIONS = dino.unit(draw(2, D, K), 1)
WEIGHTS = jnp.asarray(RNG.random((B, R)) * (RNG.random((B, R)) < 0.7), 'f4')
CENTRE = 0.1 * draw(K)


def step(rows, directions, weights, temperature, *, kind, chunk):
  def loss(rows, directions):
    out = chunked.contrast(
      *map(dino.Vectors, rows, directions),
      weights=weights,
      spec=dino.TargetSpec(kind=kind, chunk=chunk),
      teacher_temperature=temperature,
      centre=CENTRE[: directions.shape[-1]] if kind == 'centring' else None,
    )
    return out.loss, out

  return jax.value_and_grad(loss, (0, 1), has_aux=True)(rows, directions)


@functools.cache
def compiled(kind, chunk):
  return jax.jit(functools.partial(step, kind=kind, chunk=chunk))


def found(kind, chunk=CHUNK, *, rows=ROWS, weights=WEIGHTS):
  return compiled(kind, chunk)(rows, DIRECTIONS, weights, jnp.array(0.06))


@pytest.mark.parametrize('kind', ['sinkhorn', 'centring'])
def test_chunks_give_losses_numbers_and_gradients_of_all_rows_at_once(kind):
  whole, parts = found(kind, R), found(kind)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
  jax.tree.map(close, whole[0][1]._asdict(), parts[0][1]._asdict())
  for expected, gradient in zip(whole[1], parts[1], strict=True):
    close(gradient, expected, atol=1e-5 * float(jnp.abs(expected).max()))
    assert gradient[0].any() and not gradient[1].any()  # Not the teacher's.


@pytest.mark.parametrize('kind', ['sinkhorn', 'centring'])
def test_rows_that_do_not_count_change_no_bit(kind):
  spoiled = jnp.where(WEIGHTS[None, ..., None] > 0, ROWS, jnp.nan)
  clean, dirty = found(kind), found(kind, rows=spoiled)
  jax.tree.map(np.testing.assert_array_equal, clean, dirty)
  assert all(jnp.isfinite(g).all() for g in clean[1])
  np.testing.assert_array_equal(clean[1][0][0].any(-1), WEIGHTS > 0)


@pytest.mark.parametrize('kind', ['sinkhorn', 'centring'])
def test_without_rows_that_count_loss_and_gradient_are_zero(kind):
  (value, out), gradients = found(kind, weights=0 * WEIGHTS)
  assert value == out.entropy == 0 and not any(g.any() for g in gradients)
  if kind == 'centring':
    np.testing.assert_array_equal(out.centre, CENTRE)


def test_the_bias_makes_the_targets_of_sinkhorn():
  taught = chunked._Taught(
    chunked.cut(ROWS[1], CHUNK), DIRECTIONS[1], CENTRE, jnp.array(0.1)
  )
  weights = chunked.cut(WEIGHTS, CHUNK)
  logits = ROWS[1].reshape(-1, D) @ DIRECTIONS[1]
  for iterations in (1, 3):
    bias = chunked.sinkhorn_bias(taught, weights, iterations)
    expected = sinkhorn.sinkhorn(
      logits,
      iterations=iterations,
      temperature=0.1,
      weights=WEIGHTS.reshape(-1),
    )
    targets = jax.nn.softmax(logits / 0.1 + bias[None])
    counted = WEIGHTS.reshape(-1) > 0
    np.testing.assert_allclose(
      targets[counted], expected[counted], rtol=1e-4, atol=1e-6
    )


def test_eight_devices_give_what_one_gives_and_move_no_rows():
  mesh = mesh_lib.make_mesh()
  samples = mesh_lib.batch_sharding(mesh)
  pair = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(None, *samples.spec)
  )
  whole_there = mesh_lib.replicated(mesh)
  given = (
    jax.device_put(ROWS, pair),
    jax.device_put(DIRECTIONS, whole_there),
    jax.device_put(WEIGHTS, samples),
    jax.device_put(jnp.array(0.06), whole_there),
  )
  spread = compiled('sinkhorn', CHUNK)
  close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)
  jax.tree.map(close, found('sinkhorn'), spread(*given))
  text = spread.lower(*given).compile().as_text()
  moved = set(re.findall(r' (all-\w+|collective-\w+|reduce-scatter)\(', text))
  assert moved == {'all-reduce'}


def test_memory_is_that_of_a_chunk():
  rows, outputs = 64, 2048
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)

  def temporary(chunk):
    run = jax.jit(functools.partial(step, kind='sinkhorn', chunk=chunk))
    args = shape(2, 4, rows, D), shape(2, D, outputs), shape(4, rows), shape()
    return run.lower(*args).compile().memory_analysis().temp_size_in_bytes

  assert temporary(4) < temporary(rows) / 4


def test_only_logits_that_are_large_are_cut():
  assert chunked.rows_at_once(8, 64, 1024) == 64
  huge = chunked.rows_at_once(8, 12_800, 65_536)
  assert huge == 128 and 8 * huge * 65_536 * 4 == chunked.WHOLE_BYTES
  assert chunked.rows_at_once(1024, 12_800, 65_536) == huge
  assert chunked.rows_at_once(1024, 32, 65_536) == 32
  assert chunked.rows_at_once(64, 100, 10**9) == 1
  with pytest.raises(ValueError, match='targets.chunk=0'):
    dino.TargetSpec(chunk=0)


def test_centring_without_a_centre_is_refused():
  with pytest.raises(ValueError, match='needs a centre'):
    chunked.contrast(
      *map(dino.Vectors, ROWS, DIRECTIONS),
      weights=WEIGHTS,
      spec=dino.TargetSpec(kind='centring', chunk=CHUNK),
      teacher_temperature=0.1,
    )


def test_a_frozen_last_layer_stays_and_the_others_learn():
  spec = dino.HeadSpec(dim_in=D, hidden=4, bottleneck=3, outputs=K, layers=1)
  graphdef, params = nnx.split(dino.Head(spec, key=jax.random.key(0)))

  @jax.jit
  def gradients(factor):
    def loss(params):
      head = nnx.merge(graphdef, params)
      return chunked.contrast(
        head.vectors(ROWS[0], last_layer=factor),
        dino.Vectors(ROWS[1], DIRECTIONS[1]),
        weights=WEIGHTS,
        spec=dino.TargetSpec(chunk=CHUNK),
        teacher_temperature=0.1,
      ).loss

    return nnx.to_pure_dict(jax.grad(loss)(params))

  frozen, free = gradients(0.0), gradients(1.0)
  assert not frozen['directions'].any() and free['directions'].any()
  assert frozen['layer_0']['kernel'].any()
