"""Three levels by hand; clusters of known points; what must change nothing."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.objectives import dino
from rsfm_jax.objectives import granularity
from rsfm_jax.sharding import mesh as mesh_lib

RNG = np.random.default_rng(0)
B, V, N, D, K, C = 8, 2, 12, 5, 6, 3
draw = lambda *shape: jnp.asarray(RNG.standard_normal(shape), 'float32')
STUDENT, TEACHER = draw(B, V, N, D), draw(B, V, N, D)
WEIGHTS = jnp.asarray(RNG.random((B, V, N)) < 0.7, 'float32')
WEIGHTS = WEIGHTS.at[3, 1].set(0)  # A pair without overlap.
KERNELS = draw(4, D, K)
CLUSTERS = granularity.ClusterSpec(clusters=C)
HEADS = tuple((lambda x, k=k: dino.Vectors(x, k)) for k in KERNELS)


@functools.partial(jax.jit, static_argnames=('kind', 'levels'))
def step(student, teacher, weights, kind='centring', levels=None):
  centring = {level: jnp.zeros(K) for level in granularity.LEVELS}

  def loss(student, teacher, kernels):
    heads = [(lambda x, k=k: dino.Vectors(x, k)) for k in kernels]
    out = granularity.losses(
      student,
      teacher,
      weights,
      pixel_heads=granularity.Heads(*heads[:2]),
      image_heads=granularity.Heads(*heads[2:]),
      teacher_temperature=0.5,
      targets=dino.TargetSpec(kind=kind, student_temperature=0.7),
      clusters=CLUSTERS,
      levels=levels or granularity.LEVELS,
      centres=centring if kind == 'centring' else None,
    )
    return out.pixel + 2 * out.object + 4 * out.image, out

  gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
  return gradients(student, teacher, KERNELS)


@jax.jit
def cluster(points, weights):
  return granularity.cluster(points, weights, CLUSTERS)


def crossed(student, teacher, heads):
  """Eq. 4 of two vectors in DINO's direction, with centres at 0."""
  softmax = lambda x: np.exp(x) / np.exp(x).sum()
  wanted = softmax(teacher @ heads[1] / 0.5)
  return -(wanted * np.log(softmax(student @ heads[0] / 0.7))).sum()


def test_the_three_levels_by_hand():
  (_, out), _ = step(STUDENT, TEACHER, WEIGHTS)
  rows = {level: [] for level in granularity.LEVELS}
  kernels = np.asarray(KERNELS)
  given = (STUDENT, TEACHER, WEIGHTS, cluster(TEACHER, WEIGHTS))
  given = jax.tree.map(np.asarray, given)
  for b, v in np.ndindex(B, V):
    seen = given[2][b, v] > 0
    s, t, _, share = (x[b, v][seen] for x in given)
    if not len(s):
      continue
    rows['pixel'] += [crossed(*p, kernels[:2]) for p in zip(s, t)]
    for c in share.T:
      means = (c @ s / c.sum(), c @ t / c.sum())
      rows['object'].append(crossed(*means, kernels[:2]))
    rows['image'].append(crossed(s.mean(0), t.mean(0), kernels[2:]))
  for level, expected in rows.items():
    found = getattr(out, level)
    np.testing.assert_allclose(found, np.mean(expected), rtol=2e-5)
  assert out.watch['rows'] == B * V - 1
  assert set(out.centres) == set(granularity.LEVELS)


@pytest.mark.parametrize('kind', ['centring', 'sinkhorn'])
def test_points_that_do_not_count_change_no_bit(kind):
  clean = step(STUDENT, TEACHER, WEIGHTS, kind=kind)
  spoil = lambda x: jnp.where(WEIGHTS[..., None] > 0, x, jnp.nan)
  dirty = step(spoil(STUDENT), spoil(TEACHER), WEIGHTS, kind=kind)
  jax.tree.map(np.testing.assert_array_equal, clean, dirty)
  d_student, d_teacher, d_kernels = clean[1]
  assert jnp.isfinite(d_student).all() and not d_teacher.any()
  assert jnp.isfinite(d_kernels).all()
  assert d_kernels[::2].any() and not d_kernels[1::2].any()
  np.testing.assert_array_equal(d_student.any(-1), WEIGHTS > 0)


def test_without_overlap_all_losses_are_zero():
  (value, out), gradients = step(STUDENT, TEACHER, 0 * WEIGHTS)
  assert value == 0 and not any(g.any() for g in gradients)
  assert all(np.isfinite(x) for x in out.watch.values())


def test_a_level_that_is_off_is_zero_and_not_computed():
  whole, _ = step(STUDENT, TEACHER, WEIGHTS)
  (_, out), _ = step(STUDENT, TEACHER, WEIGHTS, levels=('pixel',))
  assert out.object == out.image == 0 and not out.watch
  np.testing.assert_allclose(out.pixel, whole[1].pixel, rtol=1e-6)
  with pytest.raises(ValueError, match='Did you mean "pixel"'):
    step(STUDENT, TEACHER, WEIGHTS, levels=('pixels',))


def test_pairs_with_other_numbers_of_points_are_one_batch():
  few = 7
  tail = jnp.zeros((B, V, N - few))
  cut = lambda x: (x, x[:, ::-1, :few])
  pad = lambda x: jnp.concatenate([x, x[:, ::-1]], 1)
  parts = step(cut(STUDENT), cut(TEACHER), cut(WEIGHTS), kind='sinkhorn')
  weights = pad(WEIGHTS).at[:, V:, few:].set(tail)
  padded = step(pad(STUDENT), pad(TEACHER), weights, kind='sinkhorn')
  for level in granularity.LEVELS:
    found, expected = (getattr(x[0][1], level) for x in (parts, padded))
    np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=level)


def test_dates_and_pairs_may_stand_between_samples_and_points():
  stacked = lambda x: x.reshape(B, V, 3, N // 3, *x.shape[3:])
  given = tuple(map(stacked, (STUDENT, TEACHER, WEIGHTS)))
  by_date = step(*given)[0][1]
  joined = step(*(x.reshape(B, 3 * V, N // 3, *x.shape[4:]) for x in given))
  np.testing.assert_allclose(by_date.object, joined[0][1].object, rtol=1e-6)
  with pytest.raises(ValueError, match=r'must be \[B, ..., n, D\]'):
    step(STUDENT, TEACHER[:, :1], WEIGHTS)


def test_recomputed_in_the_backward_pass_only_features_are_kept():
  def loss(student):
    out = granularity.losses(
      student,
      TEACHER,
      WEIGHTS,
      pixel_heads=granularity.Heads(*HEADS[:2]),
      image_heads=granularity.Heads(*HEADS[2:]),
      teacher_temperature=0.5,
      clusters=CLUSTERS,
    )
    return out.pixel + out.object + out.image

  def logits_kept(loss):
    saved = jax.eval_shape(lambda x: jax.vjp(loss, x)[1], STUDENT)
    # Kernels, [D, K], end in K too.
    return sum(
      x.shape[-1:] == (K,) and len(x) > D for x in jax.tree.leaves(saved)
    )

  assert logits_kept(loss) == 6  # Logits and targets of three levels.
  assert logits_kept(jax.checkpoint(loss)) == 0
  whole, less = (jax.jit(jax.grad(f)) for f in (loss, jax.checkpoint(loss)))
  np.testing.assert_allclose(less(STUDENT), whole(STUDENT), atol=1e-6)


def test_clusters_find_separate_groups_of_points():
  directions = jnp.eye(C, D)
  label = jnp.arange(N) % C
  points = directions[label] * 3 + 0.1 * draw(N, D)
  shares = cluster(points, jnp.ones(N))
  np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)
  same = shares @ shares.T
  expected = (label[:, None] == label[None]).astype('float32')
  np.testing.assert_allclose(same, expected, atol=0.01)


def test_clusters_of_an_image_depend_on_its_counted_points_alone():
  shares = cluster(TEACHER, WEIGHTS)
  assert shares.shape == (B, V, N, C)
  np.testing.assert_allclose(shares.sum(-1), WEIGHTS, atol=1e-5)
  alone = cluster(TEACHER[2, 1], WEIGHTS[2, 1])
  np.testing.assert_allclose(shares[2, 1], alone, atol=1e-5)
  # No cluster is empty where there are points.
  filled = shares.sum(-2) > 0.1
  np.testing.assert_array_equal(filled.all(-1), WEIGHTS.any(-1))


def test_a_point_of_weight_two_is_two_points():
  twice = lambda x: jnp.concatenate([x, x[:, :, :3]], 2)
  weights = WEIGHTS.at[:, :, :3].multiply(2)
  heavy = step(STUDENT, TEACHER, weights, kind='sinkhorn')[0][1]
  given = map(twice, (STUDENT, TEACHER, WEIGHTS))
  double = step(*given, kind='sinkhorn')[0][1]
  for level in granularity.LEVELS:
    found, expected = (getattr(out, level) for out in (heavy, double))
    np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=level)


def test_fewer_points_than_clusters_still_give_finite_objects():
  weights = jnp.zeros((B, V, N)).at[:, :, 0].set(1)
  (_, out), gradients = step(STUDENT, TEACHER, weights)
  np.testing.assert_allclose(out.object, out.pixel, rtol=1e-4)
  assert all(jnp.isfinite(g).all() for g in gradients)


def test_objects_are_means_weighted_by_weight_and_assignment():
  points, shares = draw(4, D), jnp.asarray([[1, 0], [3, 0], [0, 0], [0, 0]])
  found = granularity.pool(points, shares.astype('float32'))
  np.testing.assert_allclose(
    found, [(points[0] + 3 * points[1]) / 4, jnp.zeros(D)], atol=1e-6
  )


def test_impossible_clusters_are_refused():
  with pytest.raises(ValueError, match='clusters.clusters=0'):
    granularity.ClusterSpec(clusters=0)


@pytest.mark.parametrize('kind', ['centring', 'sinkhorn'])
def test_eight_devices_give_what_one_gives(kind):
  whole = step(STUDENT, TEACHER, WEIGHTS, kind=kind)
  cut = mesh_lib.batch_sharding(mesh_lib.make_mesh())
  given = jax.device_put((STUDENT, TEACHER, WEIGHTS), cut)
  spread = step(*given, kind=kind)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-5, atol=1e-6),
    whole,
    spread,
  )


def test_only_sums_travel_between_devices():
  cut = mesh_lib.batch_sharding(mesh_lib.make_mesh())
  abstract = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cut)
  groups = [(x, x[:, :, :7]) for x in (STUDENT, TEACHER, WEIGHTS)]
  given = jax.tree.map(abstract, groups)
  text = step.lower(*given, kind='sinkhorn').compile().as_text()
  found = set(re.findall(r' (all-\w+|collective-\w+|reduce-scatter)\(', text))
  assert found == {'all-reduce'}
