"""Names that published models have, all of them known."""

import numpy as np
import pytest

from rsfm_jax.convert import rules
from rsfm_jax.convert import sources

# SkySense v1's checkpoint of its Swin-H, facts/skysense_v2.md; one block.
BLOCK = 'stages.2.blocks.5'
SKYSENSE_HR = {
  'patch_embed.projection.weight': (4, 3, 4, 4),
  'patch_embed.projection.bias': (4,),
  'patch_embed.norm.weight': (4,),
  f'{BLOCK}.attn.w_msa.logit_scale': (1, 1, 1),
  f'{BLOCK}.attn.w_msa.q_bias': (16,),
  f'{BLOCK}.attn.w_msa.v_bias': (16,),
  f'{BLOCK}.attn.w_msa.cpb_mlp.0.weight': (512, 2),
  f'{BLOCK}.attn.w_msa.cpb_mlp.0.bias': (512,),
  f'{BLOCK}.attn.w_msa.cpb_mlp.2.weight': (1, 512),
  f'{BLOCK}.attn.w_msa.qkv.weight': (48, 16),
  f'{BLOCK}.attn.w_msa.proj.weight': (16, 16),
  f'{BLOCK}.attn.w_msa.proj.bias': (16,),
  f'{BLOCK}.attn.w_msa.relative_coords_table': (1, 15, 15, 2),
  f'{BLOCK}.attn.w_msa.relative_position_index': (64, 64),
  f'{BLOCK}.norm1.weight': (16,),
  f'{BLOCK}.ffn.layers.0.0.weight': (64, 16),
  f'{BLOCK}.ffn.layers.0.0.bias': (64,),
  f'{BLOCK}.ffn.layers.1.weight': (16, 64),
  f'{BLOCK}.norm2.bias': (16,),
  f'{BLOCK}.norm3.weight': (16,),
  'stages.1.downsample.reduction.weight': (8, 16),
  'stages.1.downsample.norm.weight': (8,),
  'norm3.weight': (32,),
}
SKYSENSE_S2 = {
  'cls_token': (1, 1, 8),
  'pos_embed': (1, 17, 8),
  'patch_embed.projection.weight': (8, 10, 4, 4),
  'layers.0.ln1.weight': (8,),
  'layers.0.attn.attn.in_proj_weight': (24, 8),
  'layers.0.attn.attn.in_proj_bias': (24,),
  'layers.0.attn.attn.out_proj.weight': (8, 8),
  'layers.0.attn.attn.out_proj.bias': (8,),
  'layers.0.ln2.bias': (8,),
  'layers.0.ffn.layers.0.0.weight': (32, 8),
  'layers.0.ffn.layers.1.bias': (8,),
}


def translate(source, shapes):
  tensors = {n: np.zeros(s, np.float32) for n, s in shapes.items()}
  return rules.translate(tensors, sources.SOURCES[source].rules)


def test_skysense_v1_high_resolution():
  found = translate('skysense_v1_hr', SKYSENSE_HR)
  assert not found.unexplained
  at = 'stage_2/block_5'
  assert found.dense[f'{at}/attention/query/kernel'].array.shape == (16, 16)
  assert found.dense[f'{at}/ffn/w_in'].array.shape == (16, 64)
  assert found.dense['stage_1/merge/kernel'].array.shape == (2, 2, 4, 8)
  assert found.dense['norm/scale'].sources == ('norm3.weight',)
  assert 'extra norm' in found.skipped[f'{BLOCK}.norm3.weight']
  assert len(found.skipped) == 3


@pytest.mark.parametrize('source', ['skysense_v1_s2', 'skysense_v1_s1'])
def test_skysense_v1_series(source):
  found = translate(source, SKYSENSE_S2)
  assert not found.unexplained
  assert found.dense['block_0/attention/key/bias'].array.shape == (8,)
  assert found.dense['positions'].array.shape == (4, 4, 8)


def test_registers_and_the_token_of_hidden_patches():
  shapes = {'register_tokens': (1, 4, 8), 'mask_token': (1, 8)}
  found = translate('dinov2', shapes)
  assert found.dense['registers'].array.shape == (4, 8)
  assert 'DINOv2 hides' in found.skipped['mask_token']
  assert translate('timm_vit', shapes).unexplained == ('mask_token',)


def test_gated_ffns_are_no_plain_ones():
  found = translate('dinov2', {'blocks.0.mlp.w12.weight': (8, 8)})
  assert found.unexplained == ('blocks.0.mlp.w12.weight',)


def test_who_else_knows_all_names():
  known = sources.alternatives(set(SKYSENSE_S2), given='timm_vit')
  assert known == ['skysense_v1_s2', 'skysense_v1_s1']
  assert sources.alternatives({'conv1.weight'}, given='timm_vit') == []
