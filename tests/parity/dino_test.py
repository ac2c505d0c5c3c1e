"""Head, targets, losses and schedules against DINO's and DINOv2's code."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import schedules
from rsfm_jax.objectives import dino

# The fixtures' own tolerance; their float32 run deviates by up to 5e-7.
LIMIT = 1e-5
SCHEDULE = 1e-6


def test_the_head_and_all_its_gradients(golden, near):
  fixture = golden('06_dino_head')
  config, w = fixture.meta['config'], fixture.group('w/')
  spec = dino.HeadSpec(
    dim_in=config['in_dim'],
    hidden=config['hidden'],
    bottleneck=config['bottleneck'],
    outputs=config['K'],
  )
  make = lambda: dino.Head(spec, key=jax.random.key(0))
  graphdef = nnx.split(nnx.eval_shape(make))[0]
  # Their layers 0, 2, 4 of a sequence with GELUs; Linear is [out, in] there.
  dense = lambda i: {
    'kernel': w[f'mlp.{2 * i}.weight'].T,
    'bias': w[f'mlp.{2 * i}.bias'],
  }
  params = {f'layer_{i}': dense(i) for i in range(3)}
  params['directions'] = w['last_layer.weight_v'].T

  def loss(params, x):
    head = nnx.merge(graphdef, params)
    y = head(x)
    return (y * fixture['cot/y']).sum(), (y, head.bottleneck(x))

  step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  (value, (y, bottleneck)), (dw, dx) = step(params, fixture['in/x'])
  near(y, fixture['out/y'], LIMIT)
  near(value, fixture['out/loss'], LIMIT)
  # Theirs is taken before it is normalised.
  near(bottleneck, dino.unit(fixture['mid/bottleneck']), LIMIT)
  near(dx, fixture['grad/in/x'], LIMIT)
  expected = fixture.group('grad/w/')
  near(dw['directions'].T, expected['last_layer.weight_v'], LIMIT)
  for i in range(3):
    got = dw[f'layer_{i}']
    near(got['kernel'].T, expected[f'mlp.{2 * i}.weight'], LIMIT)
    near(got['bias'], expected[f'mlp.{2 * i}.bias'], LIMIT)


def ones(rows):
  return jnp.ones(len(rows))


def teacher_targets(fixture, **kw):
  return dino.targets(
    fixture['in/teacher'],
    weights=ones(fixture['in/teacher']),
    temperature=fixture.meta['config']['tt'],
    **kw,
  )


def test_targets_by_sinkhorn_and_by_centring(golden, near):
  fixture = golden('06_dino_targets_and_loss')
  near(teacher_targets(fixture), fixture['out/target_sinkhorn'], LIMIT)
  near(
    teacher_targets(fixture, iterations=1),
    fixture['out/target_sinkhorn_1_iteration'],
    LIMIT,
  )
  centre = fixture['in/center0'][0]
  for i in range(2):
    history = fixture[f'in/teacher_history_{i}']
    centre = dino.new_centre(centre, history, ones(history), 0.9)
    near(centre, fixture[f'mid/center_after_{i}'][0], LIMIT)
  near(
    teacher_targets(fixture, kind='centring', centre=centre),
    fixture['out/target_softmax_center'],
    LIMIT,
  )


def pairs(student, wanted, views):
  """Rows of all (student view, other teacher view) pairs, views outermost."""
  students = jnp.split(student, views)
  teachers = jnp.split(wanted, 2)
  chosen = [
    (s, t)
    for i, s in enumerate(students)
    for j, t in enumerate(teachers)
    if i != j
  ]
  return tuple(jnp.concatenate(side) for side in zip(*chosen))


@pytest.mark.parametrize('kind', ['softmax', 'sinkhorn'])
def test_multi_crop_losses_of_dinov2(golden, near, kind):
  fixture = golden('06_dino_targets_and_loss')
  config = fixture.meta['config']
  name = {'softmax': 'softmax_center', 'sinkhorn': 'sinkhorn'}[kind]
  wanted = fixture[f'out/target_{name}']
  count = 2 + 2 * config['n_local']
  mean = lambda s, t: dino.cross_entropy(
    s, t, weights=ones(s), temperature=config['st']
  )

  def losses(crops, small):
    # Means over rows times pairs: DINOv2 sums means of pairs, then divides.
    own, other = pairs(crops, wanted, 2)
    locals_ = jnp.split(small, config['n_local'])
    many = jnp.concatenate([s for s in locals_ for _ in range(2)])
    of_global = mean(own, other) * 2 / count
    targets = jnp.tile(wanted, (config['n_local'], 1))
    of_local = mean(many, targets) * 2 * config['n_local'] / count
    return of_global + of_local, (of_global, of_local)

  step = jax.jit(jax.value_and_grad(losses, (0, 1), has_aux=True))
  (_, (of_global, of_local)), gradients = step(
    fixture['in/student_global'], fixture['in/student_local']
  )
  near(of_global, fixture[f'out/v2_global_loss_{kind}'], LIMIT)
  near(of_local, fixture[f'out/v2_local_loss_{kind}'], LIMIT)
  near(gradients[0], fixture[f'grad/in/{kind}/student_global'], LIMIT)
  near(gradients[1], fixture[f'grad/in/{kind}/student_local'], LIMIT)


def test_the_loss_of_dino_is_the_mean_over_pairs(golden, near):
  fixture = golden('06_dino_targets_and_loss')
  config = fixture.meta['config']
  centre = fixture['in/center0'][0]
  wanted = teacher_targets(fixture, kind='centring', centre=centre)

  def loss(student):
    own, other = pairs(student, wanted, 2 + config['n_local'])
    return dino.cross_entropy(
      own, other, weights=ones(own), temperature=config['st']
    )

  student = jnp.concatenate(
    [fixture['in/student_global'], fixture['in/student_local']]
  )
  value, gradient = jax.jit(jax.value_and_grad(loss))(student)
  near(value, fixture['out/v1_loss'], LIMIT)
  near(gradient, fixture['grad/in/v1/student_all'], LIMIT)
  teacher = fixture['in/teacher']
  moved = dino.new_centre(centre, teacher, ones(teacher), 0.9)
  near(moved, fixture['out/v1_center_after'][0], LIMIT)


def test_ibot_is_a_weighted_mean_of_the_same_rows(golden, near):
  fixture = golden('06_ibot_and_koleo')
  mask = fixture['in/mask']
  per_image = np.broadcast_to(mask.sum(1)[:, None], mask.shape)[mask]
  found = dino.cross_entropy(
    fixture['in/student'],
    fixture['out/target_sinkhorn'],
    weights=1 / jnp.asarray(per_image, 'float32'),
  )
  near(found, fixture['out/loss_sinkhorn'], LIMIT)


@pytest.mark.parametrize('name', ['v2/momentum', 'v2/wd', 'v1/momentum'])
def test_cosines(golden, near, name):
  fixture = golden('06_ema_and_schedules')
  expected = fixture[f'out/{name}']
  start, end = {'wd': (0.04, 0.2)}.get(name.split('/')[1], (0.996, 1.0))
  value = jax.vmap(
    lambda i: schedules.cosine(i, start=start, end=end, steps=200)
  )
  got = value(jnp.arange(len(expected)))
  near(got, expected, SCHEDULE)
  if len(expected) > 200:
    assert (np.asarray(got[200:]) == np.float32(end)).all()


def test_the_temperature_of_the_teacher(golden, near):
  expected = golden('06_ema_and_schedules')['out/v2/teacher_temp']
  value = jax.vmap(lambda i: dino.teacher_temperature(i, warmup_steps=60))
  near(value(jnp.arange(len(expected))), expected, SCHEDULE)


def test_the_last_layer_is_frozen_for_one_epoch(golden, near):
  fixture = golden('06_ema_and_schedules')
  expected = fixture['out/v2/last_layer_lr']
  rate = fixture['out/v2/lr'][: len(expected)]
  # One epoch has ten steps.
  factor = jax.vmap(lambda i: dino.last_layer_factor(i, 10))
  near(rate * factor(jnp.arange(len(rate))), expected, SCHEDULE)
