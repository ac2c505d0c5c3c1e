"""One sensor's maps by name, for every system."""

import jax
import numpy as np
import pytest

from rsfm_jax.models import build
from rsfm_jax.models import encoder
from rsfm_jax.models import sizes
from rsfm_jax.models import skysense_v2

RINGMOE = sizes.ringmoe_spec(
  'tiny', image_size=16, embed_dim=8, depths=(1, 1), heads=(1, 2), window=4
)
SKYSENSE = sizes.skysense_v2_spec('tiny')


def test_maps_have_names_and_an_order():
  assert encoder.stage_names(RINGMOE) == [
    'embed',
    'stage_0',
    'stage_1',
    'final',
  ]
  params = build.build(RINGMOE).abstract
  image = jax.ShapeDtypeStruct((2, 16, 16, 3), np.float32)
  run = encoder.encoder(RINGMOE, 'opt')
  maps = jax.eval_shape(run, params, image)
  assert set(maps) == set(encoder.stage_names(RINGMOE))
  assert maps['final'].shape == maps['stage_1'].shape


def test_fusion_is_left_out_where_there_is_one_sensor(monkeypatch):
  told = {}

  def build_(spec):
    def apply(params, images, **options):
      told.update(options)
      levels = {'embed': {'opt': images['opt'] + 1}}
      return skysense_v2.Output(images, None, levels, None)

    return build.Model(spec, None, apply, None)

  monkeypatch.setattr(build, 'build', build_)
  image = np.zeros((2, 1, 1, 3))
  maps = encoder.encoder(SKYSENSE, 'opt', engine='oracle')({}, image)
  assert (maps['embed'] == 1).all() and (maps['final'] == 0).all()
  assert told['mode'] == 'eval' and told['engine'] == 'oracle'
  assert told['fuse'] is False


def test_images_have_the_size_that_the_sensor_was_made_for():
  assert encoder.image_size(RINGMOE, 'opt') == 16
  for sensor, size in zip(SKYSENSE.sensors, SKYSENSE.image_sizes):
    assert encoder.image_size(SKYSENSE, sensor) == size
  with pytest.raises(ValueError, match='sensor of the model'):
    encoder.image_size(RINGMOE, 'thermal')
