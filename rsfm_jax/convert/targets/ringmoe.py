"""RingMoE: its Swin trunk takes a Swin V2."""

from rsfm_jax.convert.targets import places as places_lib
from rsfm_jax.models import ringmoe


def target(spec: ringmoe.RingMoESpec) -> places_lib.Target:
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
      places_lib.Place(
        f'stage_{i}/merge/kernel', f'stage_{i + 1}/merge/kernel', 'neighbours'
      ),
      places_lib.Place(
        rf'stage_{i}/merge/norm/(\w+)', rf'stage_{i + 1}/merge/norm/\1'
      ),
    )
  )
  routed = 'specialised|collaborative'
  block = r'stage_\1/block_{layer}'
  return places_lib.Target(
    (
      *places_lib.EMBED,
      *merges,
      places_lib.ROUTERS,
      places_lib.Place(
        rf'stage_(\d+)/blocks/ffn/shared/{places_lib.FFN}',
        rf'{block}/ffn/\2',
        'shared',
      ),
      places_lib.Place(
        rf'stage_(\d+)/blocks/ffn/(?:{routed})/{places_lib.FFN}',
        rf'{block}/ffn/\2',
        'experts',
      ),
      places_lib.Place(r'stage_(\d+)/blocks/(.*)', rf'{block}/\2'),
      places_lib.Place(r'norm/(\w+)', r'norm/\1'),
      places_lib.Place('mask_token', None, reason='the objective learns it'),
      places_lib.Place(
        'decoder/.*', None, reason='decoders belong to the objective'
      ),
    ),
    {},
    places_lib.Gates(
      spec.choices,
      spec.gate == 'normalised',
      1 + bool(spec.specialised) + bool(spec.collaborative),
    ),
    (places_lib.TANH, places_lib.SWIN_NORMS),
  )
