"""Where dense weights go in our models: one list of places per model.

A place is a regex over the names of the target's parameters and the dense name
(see `convert.rules`) that fills them. `{layer}` counts the blocks of a stack:
the arrays of its layers become one with a leading axis L.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rsfm_jax.convert import sources
from rsfm_jax.models import ringmoe
from rsfm_jax.models import skysense_v2_spec

Kind = Literal['copy', 'bands', 'neighbours', 'positions', 'shared', 'experts']

_FFN = '(w_in|b_in|w_out|b_out)'


class Place(NamedTuple):
  """Parameters that `pattern` matches as a whole, and what fills them.

  Attributes:
    pattern: regex over names of the target.
    take: dense name, with \\1 for groups; None leaves them at init.
    kind: how: see `convert.fill`.
    first: the first block of the stack, which `{layer}` starts from.
    reason: why they stay at init.
  """

  pattern: str
  take: str | None
  kind: Kind = 'copy'
  first: int = 0
  reason: str = ''


class Gates(NamedTuple):
  """How a routed FFN weighs its experts; see `convert.upcycle`.

  Attributes:
    choices: experts per token and router, K.
    normalised: whether the gates of a token sum to 1.
    branches: FFNs whose outputs add up.
  """

  choices: int = 1
  normalised: bool = False
  branches: int = 1


class Target(NamedTuple):
  """What a model can take from a family of sources.

  Attributes:
    places: first match wins.
    leave: {regex over dense names: why the target does not take them}.
    gates: of its routed FFNs.
    notes: where the target computes otherwise than the source.
  """

  places: tuple[Place, ...]
  leave: Mapping[str, str]
  gates: Gates
  notes: tuple[str, ...]


_ROUTERS = Place(r'.*/router', None, reason='routers start as initialised')
_TANH = (
  'FFNs have the tanh form of the GELU, at most 5e-4 from the source per '
  'hidden unit'
)
_SWIN_NORMS = 'layer norms add 1e-6 (merges 1e-4) to variances, the source 1e-5'
_EMBED = (
  Place(r'embed/(\w+)/kernel', 'embed/kernel', 'bands'),
  Place(r'embed/\w+/(bias|norm/\w+)', r'embed/\1'),
)


def _of_ringmoe(spec: ringmoe.RingMoESpec) -> Target:
  """The Swin trunk; all sensors and all experts start from the dense one.

  Raises:
    ValueError: a trunk with bias tables.
  """
  if spec.attention != 'v2_cosine':
    raise ValueError(
      f"config.model.attention={spec.attention!r} has no place for Swin V2's "
      "temperatures and log-CPB: set it to 'v2_cosine'."
    )
  merges = tuple(
    place
    for i in range(len(spec.depths) - 1)
    for place in (
      Place(
        f'stage_{i}/merge/kernel', f'stage_{i + 1}/merge/kernel', 'neighbours'
      ),
      Place(rf'stage_{i}/merge/norm/(\w+)', rf'stage_{i + 1}/merge/norm/\1'),
    )
  )
  routed = 'specialised|collaborative'
  block = r'stage_\1/block_{layer}'
  return Target(
    (
      *_EMBED,
      *merges,
      _ROUTERS,
      Place(
        rf'stage_(\d+)/blocks/ffn/shared/{_FFN}', rf'{block}/ffn/\2', 'shared'
      ),
      Place(
        rf'stage_(\d+)/blocks/ffn/(?:{routed})/{_FFN}',
        rf'{block}/ffn/\2',
        'experts',
      ),
      Place(r'stage_(\d+)/blocks/(.*)', rf'{block}/\2'),
      Place(r'norm/(\w+)', r'norm/\1'),
      Place('mask_token', None, reason='the objective learns it'),
      Place('decoder/.*', None, reason='decoders belong to the objective'),
    ),
    {},
    Gates(
      spec.choices,
      spec.gate == 'normalised',
      1 + bool(spec.specialised) + bool(spec.collaborative),
    ),
    (_TANH, _SWIN_NORMS),
  )


_PRE_NORM = (
  'stages 2 and 3 of the target are pre-norm with global attention, which '
  'post-norm blocks with windows do not fit'
)


def _stack(stage: int, run: skysense_v2_spec.Run, block: str) -> list[Place]:
  """A run of equal blocks of SkySense V2, dense or routed."""
  of, first = f'stage_{stage}/{run.name}', run.start
  return [
    Place(f'{of}/ffn/routed/{_FFN}', rf'{block}/ffn/\1', 'experts', first),
    Place(f'{of}/(.*)', rf'{block}/\1', 'copy', first),
  ]


def _skysense_from_swin(spec: skysense_v2_spec.SkySenseV2Spec) -> Target:
  """The Swin stages, tokenizers and the merges behind those stages."""
  stages = range(skysense_v2_spec.STAGES)
  swin = [i for i in stages if not skysense_v2_spec.is_global(spec, i)]
  places = [*_EMBED, _ROUTERS]
  for stage in swin:
    places.append(
      Place(rf'stage_{stage + 1}/(merge/.*)', rf'stage_{stage + 1}/\1')
    )
    for run in skysense_v2_spec.runs(spec, stage):
      places += _stack(stage, run, f'stage_{stage}/block_{{layer}}')
  leave = {}
  if len(swin) == len(stages):
    places.append(Place(r'norm/(\w+)', r'norm/\1'))
  else:
    leave = {
      r'stage_[23]/block_.*': _PRE_NORM,
      'stage_3/merge/.*': _PRE_NORM,
      'norm/.*': 'it follows stage 3, which is another',
    }
  places.append(Place('.*', None, reason='a Swin V2 has nothing like it'))
  return Target(tuple(places), leave, Gates(spec.choices), (_TANH, _SWIN_NORMS))


def _skysense_from_vit(spec: skysense_v2_spec.SkySenseV2Spec) -> Target:
  """The blocks of stage 2, and its tables of positions.

  Raises:
    ValueError: no stage with global attention.
  """
  if not spec.global_attention:
    raise ValueError(
      'config.model.global_attention=False leaves no place for a ViT: its '
      'blocks go to stage 2.'
    )
  places = [_ROUTERS]
  for run in skysense_v2_spec.runs(spec, 2):
    places += _stack(2, run, 'block_{layer}')
  places += [
    Place(r'stage_2/positions/\w+', 'positions', 'positions'),
    Place('.*', None, reason='a ViT fills stage 2 only'),
  ]
  leave = {
    r'block_\d+/.*': 'stage 2 has fewer blocks',
    r'(embed|norm)/.*': 'of other patches and another width',
    'class_.*|registers': 'the target has patch tokens only',
    'decoder/.*': 'the target has no decoder',
  }
  return Target(tuple(places), leave, Gates(spec.choices), (_TANH,))


def check_windows(spec: Any, trained: Sequence[int]) -> None:
  """Whether log-CPB measures offsets as in the source's pre-training.

  Args:
    spec: of a model with Swin V2 blocks.
    trained: windows of the source, one for all stages or one per stage.

  Raises:
    ValueError: it does not; names the key to set.
  """
  stages = range(len(spec.depths))
  own = (spec.window,) * len(stages)
  if isinstance(spec, ringmoe.RingMoESpec):
    grids = [spec.image_size // spec.patch_size // 2**i for i in stages]
    own = tuple(min(spec.window, grid) for grid in grids)
  if len(trained) == 1:  # Clipped to the same grids.
    trained = [min(trained[0], window) for window in own]
  own = spec.cpb_windows or own
  if tuple(trained) != own:
    raise ValueError(
      f'--source-windows {tuple(trained)}: the model measures offsets in '
      f'windows of {own}; set config.model.cpb_windows={tuple(trained)}.'
    )


Build = Callable[[Any], Target]
TARGETS: dict[tuple[type, sources.Family], Build] = {
  (ringmoe.RingMoESpec, 'swin'): _of_ringmoe,
  (skysense_v2_spec.SkySenseV2Spec, 'swin'): _skysense_from_swin,
  (skysense_v2_spec.SkySenseV2Spec, 'vit'): _skysense_from_vit,
}


def find(spec: Any, family: sources.Family) -> Target:
  """The places of a model.

  Raises:
    ValueError: the model cannot take this family at all.
  """
  if (type(spec), family) not in TARGETS:
    fits = sorted(
      name
      for name, source in sources.SOURCES.items()
      if (type(spec), source.family) in TARGETS
    )
    raise ValueError(
      f'--from a {family} model has no place in a {type(spec).__name__}; it '
      f'can take {", ".join(fits)}.'
    )
  return TARGETS[type(spec), family](spec)
