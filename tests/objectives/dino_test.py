"""Targets and cross-entropy by hand, and what must never change them."""

import math

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.objectives import dino
from rsfm_jax.sharding import mesh as mesh_lib

RNG = np.random.default_rng(0)
ROWS, OUTPUTS = 16, 6
STUDENT = jnp.asarray(RNG.standard_normal((ROWS, OUTPUTS)), 'float32')
TEACHER = jnp.asarray(RNG.standard_normal((ROWS, OUTPUTS)), 'float32')
WEIGHTS = jnp.asarray(RNG.random(ROWS) < 0.6, 'float32')
WANTED = jax.nn.softmax(TEACHER / 0.3)


def sized(spec):
  make = lambda: dino.Head(spec, key=jax.random.key(0))
  state = nnx.eval_shape(lambda: nnx.state(make()))
  return sum(math.prod(x.shape) for x in jax.tree.leaves(state))


def test_heads_of_the_paper_have_dinov2s_numbers_of_weights():
  assert sized(dino.HeadSpec(dim_in=1024)) == 23_597_312
  assert sized(dino.HeadSpec(dim_in=2816)) == 27_267_328


def test_a_head_names_the_size_that_is_no_size():
  with pytest.raises(ValueError, match='head.outputs=0 must be at least 1'):
    dino.HeadSpec(dim_in=4, outputs=0)


def small_head(layers=3):
  spec = dino.HeadSpec(
    dim_in=5, hidden=8, bottleneck=4, outputs=OUTPUTS, layers=layers
  )
  return dino.Head(spec, key=jax.random.key(1))


@pytest.mark.parametrize('layers', [1, 2])
def test_logits_are_cosines_in_float32_of_any_shape_and_dtype(layers):
  x = jnp.asarray(RNG.standard_normal((2, 3, 5)), 'float32')
  y = small_head(layers)(x)
  assert y.shape == (2, 3, OUTPUTS)
  assert float(jnp.abs(y).max()) <= 1 + 1e-6
  coarse = small_head(layers)(x.astype('bfloat16'))
  assert coarse.dtype == jnp.float32
  np.testing.assert_allclose(coarse, y, atol=0.03)
  # Accumulated in float32: not every logit is a bfloat16.
  assert (coarse.astype('bfloat16').astype('float32') != coarse).any()


def test_a_frozen_last_layer_has_no_gradient_and_the_others_keep_theirs():
  graphdef, params = nnx.split(small_head())
  x = jnp.asarray(RNG.standard_normal((3, 5)), 'float32')

  @jax.jit
  def gradients(factor):
    def loss(params):
      y = nnx.merge(graphdef, params)(x, last_layer=factor)
      return jnp.square(y - 1).sum()

    return nnx.to_pure_dict(jax.grad(loss)(params))

  steps = [gradients(dino.last_layer_factor(step, 2)) for step in (1, 2)]
  frozen, free = (step.pop('directions') for step in steps)
  assert not frozen.any() and free.any()
  jax.tree.map(np.testing.assert_array_equal, *steps)


def test_the_zero_vector_has_no_direction_and_no_nan():
  value, gradient = jax.value_and_grad(lambda x: dino.unit(x).sum())(
    jnp.zeros(3)
  )
  assert value == 0 and jnp.isfinite(gradient).all()


def by_hand(student, wanted, weights, temperature):
  """The loss row by row in float64."""
  total, mass = 0.0, 0.0
  for s, p, w in zip(*map(np.float64, (student, wanted, weights))):
    chances = np.exp(s / temperature) / np.exp(s / temperature).sum()
    total -= w * (p * np.log(chances)).sum()
    mass += w
  return total / mass if mass else 0.0


def test_cross_entropy_is_the_weighted_mean_over_rows():
  for weights in (WEIGHTS, jnp.asarray(RNG.random(ROWS), 'float32')):
    found = dino.cross_entropy(
      STUDENT, WANTED, weights=weights, temperature=0.2
    )
    np.testing.assert_allclose(
      found, by_hand(STUDENT, WANTED, weights, 0.2), rtol=1e-6
    )


def test_the_written_gradient_is_that_of_autodiff():
  def plain(student):
    chances = jax.nn.log_softmax(student / 0.2)
    rows = -(WANTED * chances).sum(-1)
    return (rows * WEIGHTS).sum() / WEIGHTS.sum()

  ours = lambda s: dino.cross_entropy(
    s, WANTED, weights=WEIGHTS, temperature=0.2
  )
  np.testing.assert_allclose(
    jax.grad(ours)(STUDENT), jax.grad(plain)(STUDENT), atol=1e-6
  )
  half = jax.grad(ours)(STUDENT.astype('bfloat16'))
  assert half.dtype == jnp.bfloat16


def test_nothing_of_the_size_of_the_logits_is_kept_but_logits_and_targets():
  loss = lambda s: dino.cross_entropy(s, WANTED, weights=WEIGHTS)
  kept = jax.tree.leaves(jax.vjp(loss, STUDENT)[1])
  assert sum(x.shape == STUDENT.shape for x in kept) == 2


def test_without_rows_that_count_loss_and_gradient_are_zero():
  value, gradient = jax.value_and_grad(dino.cross_entropy)(
    STUDENT, WANTED, weights=jnp.zeros(ROWS)
  )
  assert value == 0 and not gradient.any()


@pytest.mark.parametrize('kind', ['sinkhorn', 'centring'])
def test_uncounted_rows_change_no_bit(kind):
  spec = dino.TargetSpec(kind=kind)
  centre = jnp.zeros(OUTPUTS) if kind == 'centring' else None

  @jax.jit
  def step(student, teacher):
    def loss(student):
      out = dino.contrast(
        student,
        teacher,
        weights=WEIGHTS,
        spec=spec,
        teacher_temperature=0.05,
        centre=centre,
      )
      return out.loss, out

    return jax.value_and_grad(loss, has_aux=True)(student)

  spoil = lambda x, value: jnp.where(WEIGHTS[:, None] > 0, x, value)
  clean = step(STUDENT, TEACHER)
  for value in (jnp.nan, jnp.inf, -1e30):
    spoiled = step(spoil(STUDENT, value), spoil(TEACHER, value))
    jax.tree.map(np.testing.assert_array_equal, clean, spoiled)
  np.testing.assert_allclose(clean[0][1].targets.sum(-1), WEIGHTS, atol=1e-6)


def test_sinkhorn_uses_outputs_alike_where_a_softmax_does_not():
  biased = TEACHER.at[:, 0].add(3)
  kw = dict(weights=jnp.ones(ROWS), temperature=1.0)
  even = dino.targets(biased, iterations=20, **kw).mean(0)
  np.testing.assert_allclose(even, 1 / OUTPUTS, atol=1e-3)
  plain = dino.targets(biased, kind='centring', centre=jnp.zeros(OUTPUTS), **kw)
  assert plain.mean(0)[0] > 0.7


def test_the_centre_moves_by_counted_rows_alone():
  centre = jnp.ones(OUTPUTS)
  mean = TEACHER[WEIGHTS > 0].mean(0)
  found = dino.new_centre(centre, TEACHER, WEIGHTS, 0.9)
  np.testing.assert_allclose(found, 0.9 + 0.1 * mean, rtol=1e-5)
  still = dino.new_centre(centre, TEACHER, jnp.zeros(ROWS), 0.9)
  np.testing.assert_array_equal(still, centre)


def test_centring_without_a_centre_and_unknown_kinds_are_refused():
  with pytest.raises(ValueError, match='needs a centre'):
    dino.targets(TEACHER, weights=WEIGHTS, temperature=1, kind='centring')
  with pytest.raises(ValueError, match='Did you mean "centring"'):
    dino.TargetSpec(kind='centering')


def test_the_temperature_warms_up_and_stays():
  warm = lambda step: dino.teacher_temperature(step, warmup_steps=5)
  np.testing.assert_allclose([warm(0), warm(4), warm(50)], [0.04, 0.07, 0.07])
  assert dino.teacher_temperature(0, warmup_steps=0) == np.float32(0.07)


def test_eight_devices_give_what_one_gives():
  step = jax.jit(
    jax.value_and_grad(
      lambda s, t, w: (
        dino.contrast(
          s, t, weights=w, spec=dino.TargetSpec(), teacher_temperature=0.05
        ).loss
      )
    )
  )
  whole = step(STUDENT, TEACHER, WEIGHTS)
  cut = mesh_lib.batch_sharding(mesh_lib.make_mesh())
  spread = step(*jax.device_put((STUDENT, TEACHER, WEIGHTS), cut))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7),
    whole,
    spread,
  )
