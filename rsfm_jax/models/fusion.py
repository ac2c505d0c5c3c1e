"""Fusion of sensors and dates: one short sequence at every location.

SkySense V2 (arXiv 2507.13812) fuses "following SkySense" with 24 encoder
layers. SkySense's public code: tokens of all sensors and dates at a location
behind one learnt token, pre-norm layers (eps 1e-5), no final norm; the learnt
token comes out. How the coarser grids of MS and SAR meet the grid of HR, and
where dates enter, is NOT FOUND. DEFAULT: a linear layer per sensor, one more
with a depth-to-space for coarser sensors, then a code per day of the year:
344,925,184 parameters at huge (the paper: 347.01 M).
"""

from collections.abc import Iterable, Mapping

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.core import rng
from rsfm_jax.nn import linear
from rsfm_jax.nn import multihead
from rsfm_jax.nn import patches
from rsfm_jax.nn import remat as remat_lib
from rsfm_jax.nn import transformer

Array = jax.Array
Arrays = Mapping[str, Array]

DAYS = 365  # The 366th day of a leap year shares the code of the 365th.
EPS = 1e-5


class Fusion(nnx.Module):
  """Features of several sensors and dates -> one map on the finest grid.

  Any subset of the sensors and any number of dates go in; the numbers of
  parameters do not depend on either.
  """

  def __init__(
    self,
    features_dim: int,
    dim: int,
    depth: int,
    heads: int,
    *,
    upsample: Mapping[str, int],
    key: Array,
    dated: Iterable[str] | None = None,
    mlp_ratio: float = 4.0,
    drop_path: float = 0.0,
    std: float | None = linear.DEFAULT_STD,
    remat: remat_lib.Policy = 'none',
    unroll: int = 1,
  ):
    """A fusion transformer for the sensors named in `upsample`.

    Args:
      features_dim: width of the features that come in.
      dim: d.
      depth: encoder layers.
      heads: heads of each.
      upsample: {sensor: s}, how many times finer the finest sensor's grid is;
        1 for those that need nothing. The order is that of the tokens.
      key: for the initial weights.
      dated: sensors whose tokens get the code of their day; unless given,
        those that are upsampled, or all where none is. (SkySense dates its
        series, which are coarse, and not its single fine image.)
      mlp_ratio: F / d.
      drop_path: rate of the last layer in training; grows from 0.
      std: of all matrices; None takes 1 / sqrt(fan-in).
      remat: what layers compute again in the backward pass.
      unroll: layers per step of the scan.

    Raises:
      ValueError: a dated sensor that is not in `upsample`.
    """
    coarse = tuple(s for s, times in upsample.items() if times > 1)
    dated = (coarse or tuple(upsample)) if dated is None else tuple(dated)
    for sensor in dated:
      choices.check(sensor, upsample, key='dated sensor of the fusion')
    dense = lambda name, sensor, d_in, d_out: linear.Dense(
      d_in, d_out, key=rng.named(key, name, sensor), std=std
    )
    self.input = nnx.Dict(
      {s: dense('input', s, features_dim, dim) for s in upsample}
    )
    self.up = nnx.Dict(
      {s: dense('up', s, dim, upsample[s] ** 2 * dim) for s in coarse}
    )
    table = lambda name, rows: nnx.Param(
      linear.truncated_normal(rng.named(key, name), (rows, dim))
    )
    self.days = table('days', DAYS) if dated else None
    self.token = table('token', 1)
    self.blocks = transformer.stacked(
      lambda key: _block(dim, heads, int(mlp_ratio * dim), key=key, std=std),
      depth,
      key=rng.named(key, 'blocks'),
    )
    self.upsample = tuple(upsample.items())
    self.dated = dated
    self.rates = tuple(np.linspace(0, drop_path, depth).tolist())
    self.remat = remat
    self.unroll = unroll

  def __call__(
    self,
    features: Arrays,
    *,
    date_valid: Arrays | None = None,
    days: Arrays | None = None,
    key: Array | None = None,
  ) -> Array:
    """Fuses the sensors that are present.

    Args:
      features: {sensor: [B, T, h, w, D] or [B, h, w, D]}, B the same for all,
        grids of the same ground; T may differ between sensors.
      date_valid: {sensor: bool[B, T]}, dates that count; all of a sensor that
        is not named. What stands elsewhere, NaN included, changes no bit. A
        sample without any date comes out as the learnt token alone does.
      days: {sensor: i32[B, T]}, day of the year from 0; -1 for unknown, which
        gets no code.
      key: in training, for drop path; None drops nothing.

    Returns:
      [B, h, w, d] on the finest grid that is present.

    Raises:
      ValueError: no sensor, an unknown one, or grids that do not fit.
    """
    features = self._check(features)
    finest = max(x.shape[2] for x in features.values())
    tokens, valid = [], []
    for sensor, x in features.items():
      counts = (date_valid or {}).get(sensor)
      if counts is None:
        counts = jnp.ones(x.shape[:2], bool)
      day = (days or {}).get(sensor) if sensor in self.dated else None
      tokens.append(self._tokens(sensor, x, counts, day, finest))
      valid.append(counts)
    x, valid = jnp.concatenate(tokens, 1), jnp.concatenate(valid, 1)
    return self._encode(x.transpose(0, 2, 3, 1, 4), valid, key)

  def _tokens(
    self, sensor: str, x: Array, valid: Array, day: Array | None, finest: int
  ) -> Array:
    """[B, T, h, w, D] -> [B, T, H, W, d] on the finest grid."""
    b, t, h, w, _ = x.shape
    # Zeros before any product: 0 * NaN is NaN, in gradients too.
    x = jnp.where(valid[..., None, None, None], x, 0)
    x = remat_lib.kept(self.input[sensor](x))
    if (times := finest // h) > 1:
      x = remat_lib.kept(self.up[sensor](x)).reshape(b * t, h, w, -1)
      x = patches.depth_to_space(x, times)
      x = x.reshape(b, t, h * times, w * times, -1)
    if day is None:
      return x
    code = self.days[...][jnp.clip(day, 0, DAYS - 1)]
    code = jnp.where((day >= 0)[..., None], code, 0).astype(x.dtype)
    return x + code[:, :, None, None]

  def _encode(self, x: Array, valid: Array, key: Array | None) -> Array:
    """[B, H, W, S, d], bool[B, S] -> [B, H, W, d]."""
    b, h, w, s, dim = x.shape
    token = self.token[...].astype(x.dtype)[None]
    x = x.reshape(b * h * w, s, dim)
    x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, dim)), x], 1)
    valid = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
    valid = jnp.broadcast_to(valid[:, None], (b, h * w, s + 1))
    x, _ = transformer.run(
      self.blocks,
      x,
      depth=len(self.rates),
      key=key,
      rates=np.asarray(self.rates, np.float32),
      remat=self.remat,
      unroll=self.unroll,
      tokens_valid=valid.reshape(-1, s + 1),
    )
    return x[:, 0].reshape(b, h, w, dim)

  def _check(self, features: Arrays) -> dict[str, Array]:
    """Features with dates, in the order of the constructor."""
    names = [sensor for sensor, _ in self.upsample]
    if not features:
      raise ValueError(f'There is nothing to fuse; sensors are {names}.')
    for sensor in features:
      choices.check(sensor, names, key='sensor to fuse')
    features = {s: features[s] for s in names if s in features}
    features = {
      s: x[:, None] if x.ndim == 4 else x for s, x in features.items()
    }
    finest = max(x.shape[2:4] for x in features.values())
    first = next(iter(features.values()))
    for sensor, x in features.items():
      known = {1, dict(self.upsample)[sensor]}
      times = finest[0] // x.shape[2]
      met = finest == (times * x.shape[2], times * x.shape[3])
      if times not in known or not met:
        raise ValueError(
          f'{sensor}: a grid of {x.shape[2]} x {x.shape[3]} does not meet the '
          f'finest, {finest[0]} x {finest[1]}: its weights bridge factors of '
          f'{sorted(known)}. Check model.image_sizes and model.reduces.'
        )
      if len(x) != len(first):
        raise ValueError(
          f'{sensor}: {len(x)} samples meet {len(first)} of other sensors.'
        )
    return features


def _block(
  dim: int, heads: int, hidden: int, *, key: Array, std: float | None
) -> transformer.Block:
  ffn = transformer.Ffn(
    dim, hidden, key=rng.named(key, 'ffn'), std=std, activation='gelu'
  )
  attention = multihead.MultiHeadAttention(
    dim, heads, key=rng.named(key, 'attention'), std=std
  )
  return transformer.Block(attention, ffn, dim=dim, eps=EPS)
