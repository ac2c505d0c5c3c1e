"""One artefact for three platforms and any batch; needs flatbuffers."""

import jax
import jax.export
import numpy as np
import pytest

from rsfm_jax.export import parity
from rsfm_jax.export import stablehlo
from rsfm_jax.models import build
from rsfm_jax.models import encoder
from rsfm_jax.models import sizes
from rsfm_jax.sensors import catalogue

SAME = 1e-5


@pytest.fixture(scope='module')
def artefact(make_graph, params):
  pytest.importorskip('flatbuffers')
  made = make_graph('ms', pixels=catalogue.get('sentinel2_l2a'))
  return made, stablehlo.serialised(made, params)


def test_any_batch_gives_the_features_of_the_model(artefact, params):
  made, data = artefact
  call = stablehlo.load(data)
  inputs = [parity.images(made, batch) for batch in (1, 3)]
  want = parity.reference(made, params, inputs)
  got = [
    {n: np.asarray(x) for n, x in call(*arrays.values()).items()}
    for arrays in inputs
  ]
  found = parity.errors(want, got)
  assert set(found) == {'1', '3'}
  assert parity.worst(found) < SAME
  assert np.ptp(want[1]['embedding'], axis=0).max() > 100 * SAME


def test_one_artefact_serves_three_platforms(artefact):
  exported = stablehlo.export.deserialize(bytearray(artefact[1]))
  assert exported.platforms == ('cpu', 'cuda', 'tpu')
  (pixels,) = exported.in_avals
  assert str(pixels.shape[0]) == 'b' and pixels.shape[1:] == (8, 8, 12)


def test_an_empty_batch_is_an_error(artefact):
  call = stablehlo.load(artefact[1])
  with pytest.raises(ValueError, match="Expected value >= 1 .*'b'"):
    call(np.zeros((0, 8, 8, 12), np.float32))


def test_a_writer_that_is_missing_is_named(make_graph, params, monkeypatch):
  class Exported:
    def serialize(self):
      raise ModuleNotFoundError('No module', name='flatbuffers')

  monkeypatch.setattr(
    stablehlo.export, 'export', lambda *a, **k: lambda *x: Exported()
  )
  with pytest.raises(ValueError, match=r'flatbuffers.*rsfm-jax\[export\]'):
    stablehlo.serialised(make_graph('opt'), params)


SKYSENSE = dict(
  sensors=('opt', 'sentinel1_grd'),
  channels=(3, 2),
  reduces=((True,) * 3, (False,) * 3),
  image_sizes=(32, 4),
  embed_dim=8,
  depths=(2, 1, 1, 1),
  heads=(1, 1, 1, 1),
  experts=4,
  moe_layers=2,
  prompts=1,
  fusion_dim=8,
  fusion_depth=1,
  fusion_heads=1,
  prototypes_dim=4,
)


@pytest.mark.parametrize(
  'spec',
  [
    sizes.ringmoe_spec('tiny'),
    sizes.skysense_v2_spec('tiny', **SKYSENSE),
    sizes.mapex_spec('tiny', sensors=('opt', 'sar'), channels=(3, 2)),
  ],
  ids=['ringmoe', 'skysense_v2', 'mapex'],
)
def test_every_system_lowers_for_any_batch_and_platform(spec):
  (batch,) = jax.export.symbolic_shape('b')
  side = encoder.image_size(spec, 'opt')
  image = jax.ShapeDtypeStruct((batch, side, side, 3), np.float32)
  run = jax.jit(encoder.encoder(spec, 'opt'))
  lowered = jax.export.export(run, platforms=stablehlo.PLATFORMS)(
    build.build(spec).abstract, image
  )
  assert len(lowered.out_avals) == len(encoder.stage_names(spec))
  for value in lowered.out_avals:
    assert str(value.shape[0]) == 'b'
    assert all(isinstance(size, int) for size in value.shape[1:])
