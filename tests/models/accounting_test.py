"""Exact counts of RingMoE, derived by hand from its published graph."""

import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import accounting
from rsfm_jax.models import build
from rsfm_jax.models import sizes

OPTICAL = dict(sensors=('opt',), channels=(3,), decoders=False)


@pytest.fixture(scope='module')
def giant():
  return accounting.report(sizes.ringmoe_spec('giant', sar_l1_head='iq_l1'))


def count(**changes):
  spec = sizes.ringmoe_spec('giant', **changes)
  return trees.count(build.build(spec).abstract)


def test_the_encoder_of_the_giant(giant):
  assert giant['parameters']['encoder'] == 14_746_061_988


def test_the_giant_with_decoders_of_iq(giant):
  assert giant['parameters']['total'] == 14_812_140_708


def test_a_decoder_of_power_is_smaller():
  # 3584 x 1024 + 1024 for one channel instead of eight.
  assert count() == 14_812_140_708 - 29_368_320 + 3_671_040


def test_the_optical_sub_model():
  assert count(**OPTICAL) == 6_534_927_588


def test_the_optical_sub_model_with_one_collaborative_expert():
  assert count(**OPTICAL, collaborative=1) == 4_482_171_876


def test_the_dense_optical_model():
  assert count(**OPTICAL, collaborative=0, specialised=0) == 1_060_912_356


def test_active_parameters_per_sensor(giant):
  assert giant['active_parameters'] == {
    'opt': 2_429_668_836,
    'sar_l1': 2_429_704_676,
    'sar_l2': 2_429_668_836,
    'ms': 2_429_676_004,
  }


def test_flops_of_the_giant_are_632_billion(giant):
  for sensor, flops in giant['flops_per_image'].items():
    assert flops == pytest.approx(632e9, rel=0.01), sensor


def test_flops_count_the_active_experts_only():
  spec = lambda **changes: sizes.ringmoe_spec('tiny', **changes)
  flops = lambda **changes: accounting.flops(spec(**changes), 'opt')
  hidden = (
    2
    * 2
    * sum(  # FLOPs of one more FFN per token, all blocks.
      depth * (16 // 2**i) ** 2 * 2 * (32 * 2**i) ** 2 * 2
      for i, depth in enumerate((2, 2, 6))
    )
    // 2
  )
  assert flops(choices=2) - flops(choices=1) == 2 * hidden
  # Eight experts cost what four do, but for the router.
  routers = 2 * sum(
    depth * (16 // 2**i) ** 2 * 4 * 32 * 2**i
    for i, depth in enumerate((2, 2, 6))
  )
  assert flops(specialised=8) - flops(specialised=4) == routers


def test_flops_of_a_tiny_dense_model_by_hand():
  spec = sizes.ringmoe_spec(
    'tiny',
    image_size=8,
    patch_size=4,
    depths=(1,),
    heads=(2,),
    specialised=0,
    collaborative=0,
  )
  tokens, dim = 4, 32
  embed = tokens * 48 * dim
  attention = tokens * (4 * dim * dim + 2 * tokens * dim)
  ffn = tokens * 2 * dim * 64
  assert accounting.flops(spec, 'opt') == 2 * (embed + attention + ffn)


def test_bytes_are_float32_weights_gradients_and_two_moments(giant):
  total = giant['parameters']['total']
  assert giant['bytes'] == {'parameters': 4 * total, 'train_state': 16 * total}


def test_active_equals_all_when_every_expert_is_chosen():
  spec = sizes.ringmoe_spec(
    'tiny', sensors=('opt',), channels=(3,), choices=4, decoders=False
  )
  assert accounting.active(spec, 'opt') == trees.count(
    build.build(spec).abstract
  )
