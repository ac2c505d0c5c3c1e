"""Pixels to features: the pipeline's normalisation, inside the graph."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.data import adapt
from rsfm_jax.data import augment
from rsfm_jax.data import raster
from rsfm_jax.export import graph
from rsfm_jax.export import parity
from rsfm_jax.models import build
from rsfm_jax.sensors import catalogue

# float32 in another order of the same operations.
SAME = 2e-6


def through_the_pipeline(made, pixels, scale=None):
  """What training would see of images, one by one: the oracle."""
  out = []
  adapter = adapt.Adapter('s', *made.recipe())
  bands = made.pixels.band_names
  for i, image in enumerate(pixels):
    if scale is None:
      valid = raster.pixels(
        image[..., list(adapter.columns)],
        layers=bands,
        bands=bands,
        nodata=made.pixels.nodata,
      ).valid
    else:
      complex_ = image[..., ::2] + 1j * image[..., 1::2]
      names = ('HH', 'HV', 'VH', 'VV')
      found = raster.pixels(complex_, layers=names, bands=bands, nodata=None)
      valid = found.valid
    record = {'s/image': image, 's/valid': valid}
    if scale is not None:
      record['s/scene_scale'] = scale[i]
    box = augment.Box(0, 0, *image.shape[:2])
    out.append(adapter(record, box)['image'])
  return np.stack(out)


@pytest.mark.parametrize(
  'name, pixels, bands',
  [
    ('opt', 'opt', None),
    ('opt', 'opt', ('blue', 'red', 'green')),
    ('ms', 'ms', None),
    ('ms', 'sentinel2_l2a', None),
    ('ms', 'sentinel2_l2a', ('B08', 'B04', 'B03', 'B02', 'B11')),
  ],
)
def test_the_model_sees_what_the_pipeline_would_give_it(
  make_graph, name, pixels, bands
):
  source = catalogue.get(pixels)
  made = make_graph(name, pixels=source.select(bands) if bands else source)
  images = parity.images(made, 2)['pixels']
  assert not np.isfinite(images).all()
  got = made.normalised(jnp.asarray(images))
  want = through_the_pipeline(made, images)
  assert (want == 0).any() and np.isfinite(np.asarray(got)).all()
  np.testing.assert_allclose(got, want, rtol=SAME, atol=SAME)


def test_complex_images_are_divided_by_the_amplitude_of_their_scene(make_graph):
  made = make_graph('sar_l1')
  assert list(made.inputs) == ['pixels', 'scene_scale']
  found = parity.images(made, 2)
  found['pixels'][1, 3, 3] = 0
  got = made.normalised(found['pixels'], found['scene_scale'])
  want = through_the_pipeline(made, found['pixels'], found['scene_scale'])
  np.testing.assert_allclose(got, want, rtol=SAME, atol=SAME)


def test_the_offset_of_new_sentinel2_products_is_removed(make_graph):
  old = make_graph('ms', pixels=catalogue.get('sentinel2_l2a'))
  new = make_graph(
    'ms', pixels=catalogue.get('sentinel2_l2a'), processing_baseline='05.09'
  )
  images = np.full((1, 8, 8, 12), 2000, np.float32)
  np.testing.assert_allclose(
    new.normalised(images + 1000), old.normalised(images), rtol=1e-5
  )


def test_what_stands_in_invalid_pixels_changes_no_bit(make_graph, params):
  made = make_graph('ms', pixels=catalogue.get('sentinel2_l2a'))
  images = parity.images(made, 2)['pixels']
  run = jax.jit(functools.partial(made))
  want = run(params, images)
  other = images.copy()
  other[0, 0, 0] = np.inf  # Was NaN in one band.
  unused = other.copy()
  unused[..., 0] = 7.0  # B01 is no band of the model.
  for changed in (other, unused):
    got = run(params, changed)
    for name, value in want.items():
      np.testing.assert_array_equal(got[name], value)


def test_the_features_are_those_of_the_model(make_graph, params):
  made = make_graph('opt', stages=('stage_0',))
  images = parity.images(made, 2)['pixels']
  got = jax.jit(functools.partial(made))(params, images)
  image = made.normalised(images)
  out = jax.jit(build.build(made.spec).apply)(params, {'opt': image})
  np.testing.assert_allclose(got['map'], out.features['opt'], atol=1e-5)
  np.testing.assert_allclose(
    got['embedding'], out.features['opt'].mean((1, 2)), atol=1e-5
  )
  np.testing.assert_allclose(
    got['stage_0'], out.intermediates['stage_0']['opt'], atol=1e-5
  )
  assert made.outputs(params) == {
    'embedding': ('b', 16),
    'map': ('b', 2, 2, 16),
    'stage_0': ('b', 4, 4, 8),
  }


def test_a_graph_survives_json(make_graph):
  made = make_graph(
    'ms', pixels=catalogue.get('sentinel2_l2a'), stages=('embed',)
  )
  assert graph.Graph.from_json(made.to_json()) == made
  sar = make_graph('sar_l1')
  assert graph.Graph.from_json(sar.to_json()) == sar


def test_a_missing_band_is_an_error_that_names_it(make_graph):
  with pytest.raises(ValueError, match=r"lacks \['blue'\]"):
    make_graph('opt', pixels=catalogue.get('opt').select(('red', 'green')))


def test_contracts_of_other_weights_are_refused(make_graph):
  four = catalogue.get('naip')
  with pytest.raises(ValueError, match='choose one of'):
    make_graph('opt', sensor=four, pixels=four)
  two = catalogue.get('opt').select(('red', 'green'))
  with pytest.raises(ValueError, match='2 bands .* the weights take 3'):
    make_graph('opt', sensor=two)
  swapped = catalogue.get('opt').select(('blue', 'green', 'red'))
  with pytest.raises(ValueError, match='statistics are of'):
    make_graph('opt', sensor=swapped)


@pytest.mark.parametrize(
  'changes, message',
  [({'stages': ('stage_9',)}, '--stages'), ({'size': 0}, '--size 0')],
)
def test_bad_requests_are_named(make_graph, changes, message):
  with pytest.raises(ValueError, match=message):
    make_graph('opt', **changes)


def test_weights_beyond_a_file_are_refused(monkeypatch, params):
  monkeypatch.setattr(graph, 'LIMIT_BYTES', 1000)
  with pytest.raises(ValueError, match='rsfm prune'):
    graph.check_size(params)
