"""What a fine-tuning takes from a run of several sensors."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import models
from rsfm_jax.cli.systems import finetune_encoder
from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import sizes

PATH = pathlib.Path(__file__).parents[2] / 'configs/finetune_base.py'
HR, S2, PLANET = 'opt', 'sentinel2_skysense', 'planetscope'
SPEC = sizes.skysense_v2_spec('tiny')
REGIONS, NUMBER = 3, 2


def filled(name, x):
  """A number of its own for each parameter."""
  return jnp.full(x.shape, len(name) + sum(map(ord, name)) / 1e4, x.dtype)


@pytest.fixture
def config(monkeypatch):
  """Of Planet in the place of HR, beside Sentinel-2; a run stands behind."""
  about = {
    'spec': SPEC.to_json(),
    'contract': {},
    'objective': {'regions': REGIONS, 'prototypes': NUMBER},
  }
  model = build.build(SPEC)
  params = trees.map_named(filled, model.abstract)
  opened = models.Opened(model, params, {}, {}, {}, 'hash', 'run', 1)
  shape = REGIONS, NUMBER, SPEC.prototypes_dim
  known = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  monkeypatch.setattr(models, 'metadata', lambda path: about)
  monkeypatch.setattr(models, 'open_model', lambda path, which: opened)
  monkeypatch.setattr(models, 'prototypes_of', lambda opened: known)
  c = configs.load(str(PATH))
  with c.unlocked():
    c.model.checkpoint = 'run'
    c.model.tokenizers[PLANET] = HR
    c.model.fresh = (f'embed/{PLANET}/kernel',)
    c.data.sensors = (PLANET, S2)
    c.data.factors[S2] = 32
    c.data.window.update(size=256, form='scale')
    c.task.levels = ('fused',)
  return c


def test_the_spec_keeps_what_the_sensors_need(config):
  spec = finetune_encoder.spec_of(config)
  assert spec.sensors == (PLANET, S2)
  assert spec.channels == (4, 10)
  assert spec.fusion_depth == SPEC.fusion_depth
  known = finetune_encoder.prototypes(config, spec)
  assert known.shape == (REGIONS, NUMBER, SPEC.prototypes_dim)


def test_a_head_that_reads_no_fused_features_needs_no_fusion(config):
  config.task.levels = (f'{S2}/final',)
  spec = finetune_encoder.spec_of(config)
  assert (spec.fusion_depth, spec.prototypes_dim) == (0, 0)
  assert finetune_encoder.prototypes(config, spec) is None


def test_weights_and_prototypes_are_those_of_the_run(config):
  built = build.build(finetune_encoder.spec_of(config))
  zeros = lambda x: jnp.zeros(x.shape, x.dtype)
  known = finetune_encoder.prototypes(config, built.spec)
  state = {
    'params': jax.tree.map(zeros, built.abstract) | {build.HEADS: {}},
    'extra': {'prototypes': zeros(known)},
  }
  found = finetune_encoder.initial(config, built, state)
  for name, x in trees.flatten(found['params']).items():
    like = name.replace(PLANET, HR)
    fresh = name == f'embed/{PLANET}/kernel'
    want = jnp.zeros(x.shape) if fresh else filled(like, x)
    np.testing.assert_array_equal(x, want, err_msg=name)
  np.testing.assert_array_equal(
    found['extra']['prototypes'], models.prototypes_of(None)
  )
