"""Whose weights can come in: the names that their authors gave them.

Sources of the names: timm 1.0 `swin_transformer_v2.py` and
`vision_transformer.py`; microsoft/Swin-Transformer `swin_transformer_v2.py`;
facebookresearch/dinov2 and /mae; SkySense v1's backbones as carried by
kang-wu/SkySensePlusPlus (mmcls and mmseg names) and the list of its public
checkpoint in facts/skysense_v2.md 1.
"""

from typing import Literal, NamedTuple

from rsfm_jax.convert import rules
from rsfm_jax.nn import positions

Family = Literal['swin', 'vit']
Rule = rules.Rule

_RGB = ('red', 'green', 'blue')
_HEAD = 'a classifier of other classes'
_BUFFER = 'a constant that is computed here'


class Source(NamedTuple):
  """A model whose weights can be imported.

  Attributes:
    family: which dense names its rules give.
    rules: first match wins.
    bands: what its patch embedding sees, unless --bands says otherwise.
    resize: how its authors resample tables of positions.
  """

  family: Family
  rules: tuple[Rule, ...]
  bands: tuple[str, ...] = _RGB
  resize: positions.Kind = 'bicubic'


def _conv_embed(name: str) -> tuple[Rule, ...]:
  return (
    Rule(rf'patch_embed\.{name}\.weight', {'embed/kernel': rules.KERNEL}),
    Rule(rf'patch_embed\.{name}\.bias', {'embed/bias': rules.COPY}),
    *rules.norm(r'patch_embed\.norm', 'embed/norm'),
  )


def _swin_v2_block(prefix: str, attention: str, mlp: tuple[str, str]):
  """`prefix` has two groups: stage and block."""
  to = r'stage_\1/block_\2'
  inside = rf'{prefix}\.{attention}'
  return (
    *rules.qkv(rf'{inside}\.qkv\.weight', None, f'{to}/attention'),
    Rule(rf'{inside}\.q_bias', {f'{to}/attention/query/bias': rules.COPY}),
    Rule(rf'{inside}\.v_bias', {f'{to}/attention/value/bias': rules.COPY}),
    *rules.dense(rf'{inside}\.proj', f'{to}/attention/out'),
    Rule(
      rf'{inside}\.logit_scale', {f'{to}/attention/logit_scale': rules.VECTOR}
    ),
    *rules.dense(rf'{inside}\.cpb_mlp\.0', f'{to}/attention/cpb/hidden'),
    *rules.dense(rf'{inside}\.cpb_mlp\.2', f'{to}/attention/cpb/out'),
    *rules.norm(rf'{prefix}\.norm1', f'{to}/norm_1'),
    *rules.norm(rf'{prefix}\.norm2', f'{to}/norm_2'),
    *rules.ffn(*(rf'{prefix}\.{name}' for name in mlp), f'{to}/ffn'),
    rules.skip(
      rf'{inside}\.(relative_coords_table|relative_position_index|k_bias)',
      _BUFFER,
    ),
    rules.skip(rf'{prefix}\.attn_mask', _BUFFER),
  )


def _merges(names: str, *, after: bool, change: rules.Change):
  """Merges before stages 1 to 3; `after`: counted with the stage before."""
  return tuple(
    rule
    for stage in range(1, 4)
    for name in [rf'{names}\.{stage - after}\.downsample']
    for rule in (
      Rule(
        rf'{name}\.reduction\.weight', {f'stage_{stage}/merge/kernel': change}
      ),
      *rules.norm(rf'{name}\.norm', f'stage_{stage}/merge/norm'),
    )
  )


def _torch_swin_v2(*, after: bool) -> Source:
  block = r'layers\.(\d+)\.blocks\.(\d+)'
  return Source(
    'swin',
    (
      *_conv_embed('proj'),
      *_swin_v2_block(block, 'attn', (r'mlp\.fc1', r'mlp\.fc2')),
      *_merges('layers', after=after, change=rules.MERGE),
      *rules.norm('norm', 'norm'),
      rules.skip(r'head\..*', _HEAD),
    ),
  )


def _skysense_v1_hr() -> Source:
  block = r'stages\.(\d+)\.blocks\.(\d+)'
  return Source(
    'swin',
    (
      *_conv_embed('projection'),
      *_swin_v2_block(
        block, r'attn\.w_msa', (r'ffn\.layers\.0\.0', r'ffn\.layers\.1')
      ),
      *_merges('stages', after=False, change=rules.MERGE_UNFOLDED),
      rules.skip(
        rf'{block}\.norm3\..*',
        'an extra norm after every sixth block, which the target does not '
        'have: features differ from there on',
      ),
      *rules.norm('norm3', 'norm'),
      rules.skip(r'norm[0-2]\..*', 'the norm of an output before the last'),
      rules.skip(r'(mask_token|vocabulary_.*)', "SkySense++'s annotations"),
    ),
  )


def _vit_block(prefix: str, to: str) -> tuple[Rule, ...]:
  """`prefix` has one group: the block."""
  return (
    *rules.norm(rf'{prefix}\.norm1', f'{to}/norm_1'),
    *rules.norm(rf'{prefix}\.norm2', f'{to}/norm_2'),
    *rules.qkv(
      rf'{prefix}\.attn\.qkv\.weight',
      rf'{prefix}\.attn\.qkv\.bias',
      f'{to}/attention',
    ),
    *rules.dense(rf'{prefix}\.attn\.proj', f'{to}/attention/out'),
    *rules.ffn(rf'{prefix}\.mlp\.fc1', rf'{prefix}\.mlp\.fc2', f'{to}/ffn'),
    Rule(rf'{prefix}\.ls1\.gamma', {f'{to}/scale_1': rules.COPY}),
    Rule(rf'{prefix}\.ls2\.gamma', {f'{to}/scale_2': rules.COPY}),
  )


def _positions(name: str, to: str) -> Rule:
  return Rule(
    name,
    {
      f'{to}class_position': rules.CLASS_ROW,
      f'{to}positions': rules.GRID,
    },
  )


_VIT = (
  *_conv_embed('proj'),
  Rule('cls_token', {'class_token': rules.VECTOR}),
  Rule('(?:reg_token|register_tokens)', {'registers': rules.TOKENS}),
  _positions('pos_embed', ''),
  *_vit_block(r'blocks\.(\d+)', r'block_\1'),
  *rules.norm('norm', 'norm'),
)

_MAE_DECODER = (
  *rules.dense('decoder_embed', 'decoder/input'),
  Rule('mask_token', {'decoder/mask_token': rules.VECTOR}),
  _positions('decoder_pos_embed', 'decoder/'),
  *_vit_block(r'decoder_blocks\.(\d+)', r'decoder/block_\1'),
  *rules.norm('decoder_norm', 'decoder/norm'),
  *rules.dense('decoder_pred', 'decoder/output'),
)


def _skysense_v1_vit(bands: tuple[str, ...]) -> Source:
  block, to = r'layers\.(\d+)', r'block_\1'
  attention = rf'{block}\.attn\.attn'
  return Source(
    'vit',
    (
      *_conv_embed('projection'),
      Rule('cls_token', {'class_token': rules.VECTOR}),
      _positions('pos_embed', ''),
      *rules.norm(rf'{block}\.ln1', f'{to}/norm_1'),
      *rules.norm(rf'{block}\.ln2', f'{to}/norm_2'),
      *rules.qkv(
        rf'{attention}\.in_proj_weight',
        rf'{attention}\.in_proj_bias',
        f'{to}/attention',
      ),
      *rules.dense(rf'{attention}\.out_proj', f'{to}/attention/out'),
      *rules.ffn(
        rf'{block}\.ffn\.layers\.0\.0', rf'{block}\.ffn\.layers\.1', f'{to}/ffn'
      ),
      *rules.norm('ln1', 'norm'),
      rules.skip('(ccd_embed|ctpe.*)', 'codes of calendar dates'),
      rules.skip('(mask_token|vocabulary_.*)', "SkySense++'s annotations"),
    ),
    bands=bands,
  )


SOURCES: dict[str, Source] = {
  'timm_swinv2': _torch_swin_v2(after=False),
  'microsoft_swinv2': _torch_swin_v2(after=True),
  'timm_vit': Source(
    'vit',
    (*_VIT, rules.skip(r'(head|fc_norm)\..*', _HEAD)),
    resize='bicubic_antialias',
  ),
  'dinov2': Source(
    'vit',
    (*_VIT, rules.skip('mask_token', 'stands for patches that DINOv2 hides')),
  ),
  'mae': Source(
    'vit', (*_VIT, *_MAE_DECODER, rules.skip(r'(head|fc_norm)\..*', _HEAD))
  ),
  'skysense_v1_hr': _skysense_v1_hr(),
  'skysense_v1_s2': _skysense_v1_vit(
    ('B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B08', 'B8A', 'B11', 'B12')
  ),
  'skysense_v1_s1': _skysense_v1_vit(('VV', 'VH')),
}


def alternatives(names: set[str], *, given: str) -> list[str]:
  """Other sources whose rules know every one of these names."""
  marks = {name: _Mark() for name in names}
  return [
    other
    for other, source in SOURCES.items()
    if other != given and not _unknown(marks, source)
  ]


class _Mark:
  """Stands for a tensor where only its name matters."""


def _unknown(marks: dict[str, _Mark], source: Source) -> bool:
  only_names = [Rule(r.pattern, {}, '') for r in source.rules]
  return bool(rules.translate(marks, only_names).unexplained)
