"""Teacher and student on tiles of two sensors: what counts and what not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import rng
from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import sizes
from rsfm_jax.objectives import heads
from rsfm_jax.objectives import photometric
from rsfm_jax.objectives import skysense_v2
from rsfm_jax.objectives import views

KEY = jax.random.key(0)
FINE, COARSE = 'opt', 'sentinel1_grd'
TILES, DATES, CLASSES = 4, 2, 5


def model(**changes):
  return build.build(
    sizes.skysense_v2_spec(
      'tiny',
      **dict(
        sensors=(FINE, COARSE),
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
        prototypes_dim=4,
      )
      | changes,
    )
  )


def objective(built, *, table=True, **changes):
  sizes_ = dict(
    total_steps=100, hidden=8, bottleneck=4, outputs=8, clusters=2
  ) | dict(queries=2, query_heads=1, regions=6, prototypes=3)
  draws = np.random.default_rng(0).standard_normal((CLASSES, 6))
  return skysense_v2.SkySenseV2Pretraining(
    heads.LossSpec(**(sizes_ | changes)),
    model=built.spec,
    encode=built.apply,
    views=views.ViewSpec(global_size=32, local_size=16, local_views=2),
    photometric=photometric.PhotometricSpec(),
    colours={FINE: (np.full(3, 0.5), np.full(3, 0.25))},
    table=draws.astype(np.float32) if table else None,
  )


def batch():
  draws = np.random.default_rng(1)

  def entry(dates, side, bands):
    return {
      'image': draws.standard_normal((TILES, dates, side, side, bands)).astype(
        np.float32
      ),
      'band_valid': np.ones((TILES, bands), bool),
      'pixel_valid': np.ones((TILES, dates, side, side), bool),
      'date_valid': np.ones((TILES, dates), bool),
      'day': np.full((TILES, dates), 40, np.int32),
      'valid': np.ones(TILES, bool),
    }

  return {
    FINE: entry(1, 64, 3),
    COARSE: entry(DATES, 8, 2),
    'place': {
      'region': np.array([0, 3, -1, 3], np.int32),
      'landcover': draws.integers(0, CLASSES, (TILES, 8, 8)).astype(np.uint8),
      'valid': np.ones(TILES, bool),
    },
  }


class Compiled:
  """One compiled loss with gradients, for all tests that can share it."""

  def __init__(self):
    self.built = model()
    self.objective = objective(self.built)
    heads_, self.extra = self.objective.init(KEY)
    self.params = self.built.init(KEY) | {skysense_v2.OBJECTIVE: heads_}
    other = rng.named(KEY, 'teacher')
    self.teacher = self.built.init(other) | {
      skysense_v2.OBJECTIVE: self.objective.init(other)[0]
    }
    self.run = jax.jit(jax.value_and_grad(self.objective.loss, has_aux=True))

  def __call__(self, given, step=50, **extra):
    seen = {**self.extra, **extra, 'ema': self.teacher, 'step': jnp.array(step)}
    return self.run(self.params, seen, given, KEY)


@pytest.fixture(scope='module')
def compiled():
  return Compiled()


def test_every_loss_is_logged_by_name_and_adds_up(compiled):
  (total, aux), grads = compiled(batch())
  losses = aux['losses']
  parts = {
    f'{source}_{level}'
    for source in (FINE, COARSE, 'fused')
    for level in ('pixel', 'object', 'image')
  }
  assert set(losses) == parts | {'mgcl', 'qsacl', 'ita', 'balance'}
  np.testing.assert_allclose(
    losses['mgcl'], sum(losses[p] for p in parts), rtol=1e-6
  )
  want = losses['mgcl'] + losses['qsacl'] + losses['ita']
  np.testing.assert_allclose(total, want + 0.01 * losses['balance'], rtol=1e-6)
  assert all(np.isfinite(v) for v in trees.flatten(losses).values())
  still = {
    name
    for name, g in trees.flatten(grads).items()
    if not np.isfinite(g).all() or not np.abs(g).max() > 0
  }
  # The softmax over two experts' logits may be flat, nothing else.
  assert not {n for n in still if 'router' not in n}, still


@pytest.mark.parametrize('junk', [np.nan, np.inf, 7.0])
def test_junk_where_nothing_counts_changes_no_bit(compiled, junk):
  given, dirty = batch(), batch()
  for b in (given, dirty):
    b[COARSE]['date_valid'][1, 1] = False
    b[COARSE]['band_valid'][2, 1] = False
    b[FINE]['pixel_valid'][0, 0, 8:20, 8:20] = False
    for part in b.values():
      part['valid'][3] = False
  dirty[COARSE]['image'][1, 1] = junk
  dirty[COARSE]['image'][2, ..., 1] = junk
  dirty[FINE]['image'][0, 0, 8:20, 8:20] = junk
  dirty[FINE]['image'][3] = junk
  dirty[COARSE]['image'][3] = junk
  jax.tree.map(np.testing.assert_array_equal, compiled(given), compiled(dirty))


def test_only_regions_that_were_seen_move(compiled):
  (_, aux), _ = compiled(batch())
  before = compiled.extra['prototypes']
  after = compiled.objective.after_update(
    compiled.params, compiled.extra, aux, jnp.array(0)
  )['prototypes']
  moved = np.asarray((before != after).any((1, 2)))
  np.testing.assert_array_equal(np.flatnonzero(moved), [0, 3])


def test_last_layers_are_held_still_at_first(compiled):
  _, grads = compiled(batch(), step=0)
  for name, g in trees.flatten(grads[skysense_v2.OBJECTIVE]).items():
    assert (np.abs(g).max() == 0) == name.endswith('directions'), name


def test_a_batch_without_a_valid_sample_has_no_gradient_but_of_the_balance(
  compiled,
):
  given = batch()
  for part in given.values():
    part['valid'][:] = False
  (total, aux), grads = compiled(given)
  assert float(total) == 0.0
  assert all(
    float(jnp.abs(g).max()) == 0.0 for g in trees.flatten(grads).values()
  )
  kept = compiled.objective.after_update(
    compiled.params, compiled.extra, aux, jnp.array(0)
  )
  np.testing.assert_array_equal(
    kept['prototypes'], compiled.extra['prototypes']
  )


def test_a_collapse_is_said_of_the_features_that_have_it(compiled):
  row = {
    f'monitor/{source}/{name}': value
    for source, std in (('opt', 0.9), ('fused', 0.001))
    for name, value in dict(
      rows=64.0,
      feature_std=std,
      dimensions=20.0,
      teacher_entropy=1.0,
      target_spread=1.0,
      kl=0.1,
    ).items()
  }
  found = compiled.objective.warnings(row | {'loss': 1.0})
  assert set(found) == {'fused'}
  assert 'feature_std=0.001' in found['fused']


def names_of(built, made):
  """The losses of an objective, from its shapes alone."""
  heads_, extra = jax.eval_shape(made.init, KEY)
  params = built.abstract | {skysense_v2.OBJECTIVE: heads_}
  seen = {**extra, 'ema': params, 'step': jnp.array(0)}
  aux = jax.eval_shape(made.loss, params, seen, batch(), KEY)[1]
  return set(aux['losses']), set(heads_), set(extra)


def test_a_loss_without_weight_costs_nothing():
  built = model()
  found = names_of(
    built, objective(built, table=False, ita_weight=0.0, qsacl_weight=0.0)
  )
  assert 'mgcl' in found[0] and not {'ita', 'qsacl'} & found[0]
  assert found[1] == {'dense', 'image'}
  found = names_of(built, objective(built, mgcl_weight=0.0))
  assert found[0] == {'ita', 'qsacl', 'balance'}
  assert not {'dense', 'image'} & found[1]


def test_the_ablations_have_their_losses():
  dense = model(experts=0, prompts=0, global_attention=False)
  assert 'balance' not in names_of(dense, objective(dense))[0]
  alone = model(fusion_depth=0)
  found = names_of(alone, objective(alone, qsacl_weight=0.0))
  assert not [name for name in found[0] if name.startswith('fused')]
  centred = names_of(
    alone, objective(alone, qsacl_weight=0, targets='centring')
  )
  assert centred[2] == {'centres'}


def test_parts_that_are_missing_are_named_by_their_key():
  built = model()
  with pytest.raises(ValueError, match='objective.class_table'):
    objective(built, table=False)
  with pytest.raises(ValueError, match='model.fusion_depth=0'):
    objective(model(fusion_depth=0))
  with pytest.raises(ValueError, match='mgcl_weight=-1'):
    objective(built, mgcl_weight=-1)
