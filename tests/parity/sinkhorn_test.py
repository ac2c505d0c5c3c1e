"""Assignments and prototypes against SwAV and DINOv2 (fixtures 06)."""

import jax.numpy as jnp
import pytest

from rsfm_jax.objectives import geo_prototypes
from rsfm_jax.objectives import sinkhorn

LIMIT = 1e-5


def test_swav_assignments(golden, near):
  fixture = golden('06_swav_sinkhorn')
  config = fixture.meta['config']
  got = sinkhorn.sinkhorn(
    fixture['in/scores'], iterations=config['iters'], temperature=config['eps']
  )
  near(got, fixture['out/assignment'], LIMIT)
  scores = fixture['in/features'] @ fixture['in/prototypes'].T
  got = sinkhorn.sinkhorn(scores)
  near(got, fixture['out/gcpl_assignment'], LIMIT)


def test_new_prototypes(golden, near):
  fixture = golden('06_swav_sinkhorn')
  prototypes = jnp.asarray(fixture['in/prototypes'])[None]
  sums = geo_prototypes.statistics(
    prototypes, fixture['in/features'][None], jnp.zeros(1, 'int32')
  )
  expected = fixture['out/gcpl_new_prototypes_colnorm']
  near(sums.total[0], expected, LIMIT)
  # The fixture moves by the printed sums, ours by means; the rule is one.
  raw = fixture['out/gcpl_new_prototypes_raw']
  moved = geo_prototypes.update(
    prototypes, geo_prototypes.Sums(raw[None], jnp.ones(1)), momentum=0.9
  )
  near(moved[0], fixture['out/gcpl_ema_0.9_raw'], LIMIT)


@pytest.mark.parametrize(
  ('name', 'iterations'),
  [('out/target_sinkhorn', 3), ('out/target_sinkhorn_1_iteration', 1)],
)
def test_dinov2_targets(golden, near, name, iterations):
  fixture = golden('06_dino_targets_and_loss')
  got = sinkhorn.sinkhorn(
    fixture['in/teacher'],
    temperature=fixture.meta['config']['tt'],
    iterations=iterations,
  )
  near(got, fixture[name], LIMIT)
