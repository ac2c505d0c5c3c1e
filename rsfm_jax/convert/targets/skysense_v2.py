"""SkySense V2: a Swin V2 fills the Swin stages, a ViT the blocks of stage 2."""

from rsfm_jax.convert.targets import places as places_lib
from rsfm_jax.models import skysense_v2_spec

_PRE_NORM = (
  'stages 2 and 3 of the target are pre-norm with global attention, which '
  'post-norm blocks with windows do not fit'
)


def _stack(
  stage: int, run: skysense_v2_spec.Run, block: str
) -> list[places_lib.Place]:
  """A run of equal blocks of SkySense V2, dense or routed."""
  of, first = f'stage_{stage}/{run.name}', run.start
  return [
    places_lib.Place(
      f'{of}/ffn/routed/{places_lib.FFN}', rf'{block}/ffn/\1', 'experts', first
    ),
    places_lib.Place(f'{of}/(.*)', rf'{block}/\1', 'copy', first),
  ]


def from_swin(spec: skysense_v2_spec.SkySenseV2Spec) -> places_lib.Target:
  """The Swin stages, tokenizers and the merges behind those stages."""
  stages = range(skysense_v2_spec.STAGES)
  swin = [i for i in stages if not skysense_v2_spec.is_global(spec, i)]
  places = [*places_lib.EMBED, places_lib.ROUTERS]
  for stage in swin:
    places.append(
      places_lib.Place(
        rf'stage_{stage + 1}/(merge/.*)', rf'stage_{stage + 1}/\1'
      )
    )
    for run in skysense_v2_spec.runs(spec, stage):
      places += _stack(stage, run, f'stage_{stage}/block_{{layer}}')
  leave = {}
  if len(swin) == len(stages):
    places.append(places_lib.Place(r'norm/(\w+)', r'norm/\1'))
  else:
    leave = {
      r'stage_[23]/block_.*': _PRE_NORM,
      'stage_3/merge/.*': _PRE_NORM,
      'norm/.*': 'it follows stage 3, which is another',
    }
  places.append(
    places_lib.Place('.*', None, reason='a Swin V2 has nothing like it')
  )
  return places_lib.Target(
    tuple(places),
    leave,
    places_lib.Gates(spec.choices),
    (places_lib.TANH, places_lib.SWIN_NORMS),
  )


def from_vit(spec: skysense_v2_spec.SkySenseV2Spec) -> places_lib.Target:
  """The blocks of stage 2, and its tables of positions.

  Raises:
    ValueError: no stage with global attention.
  """
  if not spec.global_attention:
    raise ValueError(
      'config.model.global_attention=False leaves no place for a ViT: its '
      'blocks go to stage 2.'
    )
  places = [places_lib.ROUTERS]
  for run in skysense_v2_spec.runs(spec, 2):
    places += _stack(2, run, 'block_{layer}')
  places += [
    places_lib.Place(r'stage_2/positions/\w+', 'positions', 'positions'),
    places_lib.Place('.*', None, reason='a ViT fills stage 2 only'),
  ]
  leave = {
    r'block_\d+/.*': 'stage 2 has fewer blocks',
    r'(embed|norm)/.*': 'of other patches and another width',
    'class_.*|registers': 'the target has patch tokens only',
    'decoder/.*': 'the target has no decoder',
  }
  return places_lib.Target(
    tuple(places),
    leave,
    places_lib.Gates(spec.choices),
    (places_lib.TANH, *places_lib.heads_note(spec.dim(2), spec.heads[2])),
  )
