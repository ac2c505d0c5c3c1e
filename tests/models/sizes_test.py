"""The named sizes."""

import pytest

from rsfm_jax.models import ringmoe
from rsfm_jax.models import sizes


@pytest.mark.parametrize('size', sizes.RINGMOE)
def test_every_size_is_a_spec_whose_windows_tile_its_grids(size):
  spec = sizes.ringmoe_spec(size)
  grid = spec.image_size // spec.patch_size
  for stage, heads in enumerate(spec.heads):
    side = grid // 2**stage
    assert side % min(spec.window, side) == 0
    assert spec.embed_dim * 2**stage % heads == 0


def test_the_giant_is_the_published_configuration():
  spec = sizes.ringmoe_spec('giant')
  assert (spec.image_size, spec.patch_size, spec.embed_dim) == (192, 4, 448)
  assert spec.depths == (2, 2, 18, 2)
  assert spec.heads == (14, 28, 56, 112)
  assert (spec.window, spec.mlp_ratio, spec.attention) == (12, 4.0, 'v1_bias')
  assert (spec.specialised, spec.collaborative, spec.choices) == (4, 4, 1)
  assert spec.sensors == ('opt', 'sar_l1', 'sar_l2', 'ms')
  assert spec.channels == (3, 8, 3, 4)
  assert spec.stride == 32


def test_fields_can_be_changed_and_unknown_sizes_are_errors():
  spec = sizes.ringmoe_spec('tiny', attention='v1_bias')
  assert isinstance(spec, ringmoe.RingMoESpec)
  assert spec.attention == 'v1_bias'
  with pytest.raises(ValueError, match='model.size=.*Did you mean "giant"'):
    sizes.ringmoe_spec('gigant')
