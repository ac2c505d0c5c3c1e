"""A MAPEX-style model takes a ViT, and MAE's decoder."""

from rsfm_jax.convert.targets import places as places_lib
from rsfm_jax.models import mapex_spec

Place = places_lib.Place

_WAVES = 'the target has fixed positions in waves'
_PATCHES_ONLY = 'the target has patch tokens only'


def target(spec: mapex_spec.MapexSpec) -> places_lib.Target:
  """Blocks one to one; the FFN of every routed block becomes its experts."""
  places = [*places_lib.EMBED, places_lib.ROUTERS]
  for run in mapex_spec.runs(spec):
    for i in range(run.size - 1):
      places.append(_stack(run, f'plain_{i}', i))
    at, last = f'{run.name}/last/ffn', run.size - 1
    stack = {'first': run.first + last, 'step': run.size}
    to = r'block_{layer}/ffn/\1'
    if run.router is not None:
      places += [
        Place(f'{at}/shared/{places_lib.FFN}', to, 'shared', **stack),
        Place(
          f'{at}/routed/{places_lib.FFN}',
          to,
          'experts',
          seen=_seen(run),
          **stack,
        ),
      ]
    places.append(_stack(run, 'last', last))
  places += [
    Place(r'norm/(\w+)', r'norm/\1'),
    Place(r'decoder/blocks/(.*)', r'decoder/block_{layer}/\1'),
    Place(r'decoder/heads/(\w+)/(kernel|bias)', r'decoder/output/\2', 'pixels'),
    Place(r'decoder/(input/\w+|norm/\w+|mask_token)', r'decoder/\1'),
    Place('.*', None, reason='a ViT has nothing like it'),
  ]
  leave = {
    '(decoder/)?positions': _WAVES,
    '(decoder/)?class_.*|registers': _PATCHES_ONLY,
    'embed/norm/.*': 'the target has no norm there',
  }
  if not spec.decoder_depth:
    leave['decoder/.*'] = 'config.model.decoder_depth=0'
  return places_lib.Target(
    tuple(places),
    leave,
    places_lib.Gates(spec.choices, branches=1 + spec.shared),
    places_lib.heads_note(spec.embed_dim, spec.heads),
  )


def _stack(run: mapex_spec.Run, name: str, place: int) -> Place:
  """Block number `place` of every unit of a run."""
  return Place(
    f'{run.name}/{name}/(.*)',
    r'block_{layer}/\1',
    first=run.first + place,
    step=run.size,
  )


def _seen(run: mapex_spec.Run) -> int | None:
  """Experts that a sensor may use, in the mean; None for all."""
  allowed = run.router.allowed
  return round(sum(map(sum, allowed)) / len(allowed)) if allowed else None
