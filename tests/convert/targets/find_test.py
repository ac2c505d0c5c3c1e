"""Which model has a place for what, and in which windows it looks."""

import pytest

from rsfm_jax.convert.targets import find
from tests.convert import tiny_models


def test_a_skysense_without_global_attention_has_no_place_for_a_vit():
  spec = tiny_models.skysense_spec(global_attention=False)
  with pytest.raises(ValueError, match='global_attention=False'):
    find.find(spec, 'vit')


def test_an_mae_decoder_stays_out_where_there_is_none():
  target = find.find(tiny_models.mapex_spec(), 'vit')
  assert target.leave['decoder/.*'] == 'config.model.decoder_depth=0'


def test_heads_of_another_width_are_told():
  assert 'heads have 4' in find.find(tiny_models.mapex_spec(), 'vit').notes[0]
  wide = tiny_models.mapex_spec(embed_dim=128, heads=2)
  assert not find.find(wide, 'vit').notes


@pytest.mark.parametrize('windows', [(2,), (2, 2)])
def test_windows_as_in_pre_training(windows):
  find.check_windows(tiny_models.ringmoe_spec(), windows)
  # Clipped to the grid of the last stage, two tokens wide, in both.
  find.check_windows(tiny_models.ringmoe_spec(window=4), (4,))


def test_other_windows_ask_for_the_key():
  spec = tiny_models.ringmoe_spec()
  with pytest.raises(ValueError, match=r'config.model.cpb_windows=\(4, 2\)'):
    find.check_windows(spec, (4, 2))
  find.check_windows(tiny_models.ringmoe_spec(cpb_windows=(4, 2)), (4, 2))
