"""MAPEX-style: a ViT over the tokens of all sensors, experts by sensor.

Every sensor has a patch embedding and a learnt vector; the union of the tokens
of the sensors that are present passes one trunk of pre-norm blocks, of which
every n-th has routed experts (see `moe.routers`). The method text of MAPEX
(arXiv 2507.07527) is not available: this is no reproduction, and what is not in
its abstract is a DEFAULT of the project's fact sheet.
"""

from collections.abc import Mapping
import itertools
from typing import Any, Literal, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import choices as choices_lib
from rsfm_jax.core import rng
from rsfm_jax.models import mapex_decoder
from rsfm_jax.models import mapex_spec as spec_lib
from rsfm_jax.moe import counts as counts_lib
from rsfm_jax.moe import expert_parallel
from rsfm_jax.moe import experts
from rsfm_jax.moe import layer as moe_layer
from rsfm_jax.nn import linear
from rsfm_jax.nn import mlp
from rsfm_jax.nn import multihead
from rsfm_jax.nn import patches
from rsfm_jax.nn import positions
from rsfm_jax.nn import transformer

Array = jax.Array
Arrays = Mapping[str, Array]
MapexSpec = spec_lib.MapexSpec


class Masking(NamedTuple):
  """Which tokens of the union an encoder sees; T tokens, K of them at most.

  Attributes:
    order: i32[B, T], a permutation of the tokens; the first K are encoded.
    kept: bool[B, K], which of those count, for samples that keep fewer.
  """

  order: Array
  kept: Array


class Output(NamedTuple):
  """Of a forward pass.

  Attributes:
    features: final tokens per sensor, [B, h, w, D]; {} under a masking.
    intermediates: {'embed', 'stage_0', ...}: {sensor: like features}; see
      `MapexSpec.depths`. {} under a masking.
    aux: {sensor: `moe.layer.Statistics`} with a leading axis over
      `MapexSpec.routed`, experts padded with zeros to the largest number;
      None without routers.
    reconstruction: {sensor: [B, h, w, p * p * C]} under a masking, else None.
  """

  features: dict[str, Array]
  intermediates: dict[str, dict[str, Array]]
  aux: dict[str, moe_layer.Statistics] | None
  reconstruction: dict[str, Array] | None = None


class Unit(nnx.Module):
  """Blocks with plain FFNs, `plain_0` and so on, then `last`; see `Run`."""

  def __init__(self, spec: MapexSpec, run: spec_lib.Run, *, key: Array):
    for i in range(run.size - 1):
      name = f'plain_{i}'
      block = _block(spec, _ffn(spec, 1, rng.named(key, name)), key, name)
      setattr(self, name, block)
    k_ffn = rng.named(key, 'last')
    if run.router is None:
      ffn = _ffn(spec, run.widths, k_ffn)
    else:
      ffn = _routed(spec, run, k_ffn)
    self.last = _block(spec, ffn, key, 'last')
    self.size = run.size

  def __call__(
    self,
    x: Array,
    *,
    tokens_valid: Array | None = None,
    key: Array | None = None,
    drop: transformer.Drop = transformer.KEEP,
    **options: Any,
  ) -> tuple[Array, tuple[Any, Array]]:
    """x: [B, T, D] -> ([B, T, D], (aux of the last block, the same tokens)).

    `drop.rate` holds one rate per block, f32[size], or is None.
    """

    def own(i: int) -> transformer.Drop:
      if drop.key is None or drop.rate is None:
        return transformer.KEEP
      return transformer.Drop(rng.named(drop.key, str(i)), drop.rate[i])

    told = {'tokens_valid': tokens_valid}
    for i in range(self.size - 1):
      x, _ = getattr(self, f'plain_{i}')(x, drop=own(i), **told)
    if key is not None:
      options['key'] = key
    x, aux = self.last(x, drop=own(self.size - 1), **told, **options)
    return x, (aux, x)


class Mapex(nnx.Module):
  """See the module docstring; parameters: docs/architecture.md."""

  def __init__(self, spec: MapexSpec, *, key: Array):
    self.spec = spec
    self.embed = nnx.Dict(
      {
        sensor: patches.PatchEmbed(
          channels,
          spec.embed_dim,
          spec.patch_size,
          key=rng.named(key, 'embed', sensor),
          std=spec.init_std,
          use_norm=False,
        )
        for sensor, channels in zip(spec.sensors, spec.channels, strict=True)
      }
    )
    self.sensors = nnx.Dict(
      {
        sensor: nnx.Param(
          linear.truncated_normal(
            rng.named(key, 'sensors', sensor), (spec.embed_dim,)
          )
        )
        for sensor in spec.sensors
      }
    )
    for run in spec_lib.runs(spec):
      make = lambda k, run=run: Unit(spec, run, key=k)
      units = transformer.stacked(make, run.units, key=rng.named(key, run.name))
      setattr(self, run.name, units)
    self.norm = linear.LayerNorm(spec.embed_dim)
    self.decoder = (
      mapex_decoder.Decoder(spec, key=rng.named(key, 'decoder'))
      if spec.decoder_depth
      else None
    )

  def __call__(
    self,
    images: Arrays,
    *,
    tokens_valid: Arrays | None = None,
    masking: Masking | None = None,
    mode: Literal['train', 'eval'] = 'eval',
    key: Array | None = None,
    engine: experts.Engine | None = None,
    placement: expert_parallel.Placement | None = None,
  ) -> Output:
    """Encodes the union of the tokens of the sensors that are present.

    Args:
      images: {sensor: f32[B, H, W, C]}, any subset of the sensors, of any sizes
        that are multiples of the patch size; B is that of all.
      tokens_valid: {sensor: bool[B, h, w]}, tokens that count; all of a sensor
        that is not named. What stands elsewhere, NaN included, changes no bit
        of what counts.
      masking: what to encode; the rest is reconstructed. None for all.
      mode: 'train' routes by `spec.engine`, 'eval' drops no token.
      key: in training, for the gates' noise and drop path; None for neither.
      engine: overrides the engine of the mode (tests).
      placement: where samples and experts live on a mesh; B is cut over it.

    Raises:
      ValueError: an unknown sensor, bands or sizes that do not fit.
    """
    choices_lib.check(mode, ('train', 'eval'), key='mode')
    images = self._checked(images)
    keep = placement.keep if placement else lambda y: y
    x, valid, grids = self._tokens(images, tokens_valid or {})
    places = [self.spec.sensors.index(s) for s in grids]
    counts = [h * w for h, w in grids.values()]
    sensor = np.repeat(np.array(places, np.int32), counts)
    sensor = jnp.broadcast_to(jnp.asarray(sensor)[None], x.shape[:2])
    seen = valid
    if masking is not None:
      if self.decoder is None:
        raise ValueError('model.decoder_depth=0: nothing can reconstruct.')
      chosen = masking.order[:, : masking.kept.shape[1]]
      sensor = jnp.take_along_axis(sensor, chosen, 1)
      x = jnp.take_along_axis(x, chosen[..., None], 1)
      seen = masking.kept
    embedded = keep(x)
    y, levels, sums = self._trunk(
      embedded,
      seen,
      key if mode == 'train' else None,
      options=self._options(mode, engine),
      groups=self.spec.routing_groups if mode == 'train' else None,
      sensor=sensor,
      placement=placement,
    )
    y = self.norm(y)
    aux = self._by_sensor(sums, list(grids))
    if masking is None:
      cut = lambda y: _apart(y, grids)
      named = {'embed': cut(embedded)}
      named |= {f'stage_{i}': cut(level) for i, level in enumerate(levels)}
      return Output(cut(y), named, aux)
    made = self.decoder(
      y, masking.order, masking.kept, grids=grids, valid=valid
    )
    return Output({}, {}, aux, made)

  def _options(
    self, mode: str, engine: experts.Engine | None
  ) -> experts.Options:
    spec = self.spec
    return experts.Options(
      engine=engine or (spec.engine if mode == 'train' else 'dropless'),
      choices=spec.choices,
      capacity_factor=spec.capacity_factor,
      priority=spec.priority,
      gate_noise=spec.gate_noise,
      norms=mode == 'eval' and engine != 'oracle',
      activation=spec.activation,
    )

  def _checked(self, images: Arrays) -> dict[str, Array]:
    """In the order of the spec; errors name the sensor and what it needs."""
    spec = self.spec
    if not images:
      raise ValueError(f'No images; the sensors are {list(spec.sensors)}.')
    for sensor, image in images.items():
      choices_lib.check(sensor, spec.sensors, key='sensor of the batch')
      channels = spec.of('channels', sensor)
      if image.ndim != 4 or image.shape[-1] != channels:
        raise ValueError(
          f'{sensor}: images of shape {image.shape} are no [B, H, W, C] with '
          f'the {channels} bands that the model takes.'
        )
      height, width = image.shape[1:3]
      side = spec.patch_size
      if height % side or width % side or not height * width:
        raise ValueError(
          f'{sensor}: an image of {height} x {width} pixels is not a multiple '
          f'of the patch size, {side} px.'
        )
    sizes = {sensor: image.shape[0] for sensor, image in images.items()}
    if len(set(sizes.values())) > 1:
      raise ValueError(
        f'{sizes} images: sensors of one call are of the same samples.'
      )
    return {s: images[s] for s in spec.sensors if s in images}

  def _tokens(
    self, images: Arrays, tokens_valid: Arrays
  ) -> tuple[Array, Array | None, dict[str, tuple[int, int]]]:
    """[B, T, D] with positions and sensors; bool[B, T]; {sensor: (h, w)}."""
    spec, parts, valid, grids = self.spec, [], [], {}
    for sensor, image in images.items():
      found = tokens_valid.get(sensor)
      if found is not None:
        # Before any product: 0 * NaN is NaN, in the gradients too.
        pixels = patches.repeated(found, spec.patch_size)
        image = jnp.where(pixels[..., None], image, 0)
      y = self.embed[sensor](image.astype(spec.dtype))
      batch, h, w, dim = y.shape
      grids[sensor] = h, w
      where = positions.resized_sincos(dim, spec.grid, h, w)
      where = where + self.sensors[sensor][...][None, None]
      parts.append((y + where[None].astype(y.dtype)).reshape(batch, -1, dim))
      if found is None:
        found = jnp.ones((batch, h, w), bool)
      valid.append(found.reshape(batch, -1))
    every = jnp.concatenate(valid, 1) if tokens_valid else None
    return jnp.concatenate(parts, 1), every, grids

  def _trunk(
    self,
    x: Array,
    valid: Array | None,
    key: Array | None,
    **options: Any,
  ) -> tuple[Array, list[Array], list[moe_layer.Statistics]]:
    """Final tokens; tokens at the named levels; sums of runs with routers."""
    spec, ends, sums = self.spec, [], []
    rates = np.linspace(0, spec.drop_path, spec.depth, dtype=np.float32)
    for run in spec_lib.runs(spec):
      told = options | {'valid': valid} if run.router is not None else {}
      last = run.first + run.units * run.size
      x, (aux, after) = transformer.run(
        getattr(self, run.name),
        x,
        depth=run.units,
        key=None if key is None else rng.named(key, run.name),
        rates=rates[run.first : last].reshape(run.units, run.size),
        remat=spec.remat,
        unroll=spec.unroll,
        tokens_valid=valid,
        **told,
      )
      places = range(run.first + run.size, last + 1, run.size)
      ends += zip(places, after, strict=True)
      if aux is not None:
        sums.append(aux)
    wanted = set(itertools.accumulate(spec.depths))
    return x, [y for end, y in ends if end in wanted], sums

  def _by_sensor(
    self, sums: list[moe_layer.Statistics], sensors: list[str]
  ) -> dict[str, moe_layer.Statistics] | None:
    """[L, M, ...] of all runs with routers -> {sensor: [L, ...]}."""
    if not sums:
      return None
    every = counts_lib.join(sums)
    places = {s: self.spec.sensors.index(s) for s in sensors}
    return {
      s: jax.tree.map(lambda rows, m=m: rows[:, m], every)
      for s, m in places.items()
    }


def _apart(x: Array, grids: Mapping[str, tuple[int, int]]) -> dict[str, Array]:
  """[B, T, D] -> {sensor: [B, h, w, D]}."""
  out, start = {}, 0
  for sensor, (h, w) in grids.items():
    part = x[:, start : start + h * w]
    out[sensor] = part.reshape(x.shape[0], h, w, -1)
    start += h * w
  return out


def _block(
  spec: MapexSpec, ffn: nnx.Module, key: Array, name: str
) -> transformer.Block:
  attend = multihead.MultiHeadAttention(
    spec.embed_dim,
    spec.heads,
    key=rng.named(key, name, 'attention'),
    std=spec.init_std,
  )
  return transformer.Block(attend, ffn, dim=spec.embed_dim)


def _ffn(spec: MapexSpec, widths: int, key: Array) -> transformer.Ffn:
  return transformer.Ffn(
    spec.embed_dim,
    widths * int(spec.embed_dim * spec.mlp_ratio),
    key=rng.named(key, 'ffn'),
    std=spec.init_std,
    activation=spec.activation,
  )


def _routed(spec: MapexSpec, run: spec_lib.Run, key: Array) -> moe_layer.MoE:
  dim, hidden = spec.embed_dim, int(spec.embed_dim * spec.mlp_ratio)
  shared = None
  if spec.shared:
    shared = mlp.Mlp(
      dim,
      hidden,
      key=rng.named(key, 'shared'),
      std=spec.init_std,
      activation=spec.activation,
    )
  return moe_layer.MoE(
    dim,
    hidden,
    run.experts,
    key=rng.named(key, 'ffn'),
    std=spec.init_std,
    router=run.router,
    shared=shared,
  )
