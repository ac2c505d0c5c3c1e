"""What a region is like, attended to by the features of a sample.

SkySense V2's geo-context prototypes (arXiv 2507.13812; made by
`objectives.geo_prototypes`) enter the fused features by attention; the formula
is NOT FOUND. DEFAULT: A = softmax(Q P' / sqrt(dp)) P with Q = Linear(F), then
Linear([F ; A]) back to the width of F. The width dp of a prototype is NOT
FOUND either; 512 is the guess that fits SkySense's 215 M for the module.
"""

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import rng
from rsfm_jax.nn import linear

Array = jax.Array


def is_known(prototypes: Array, region: Array) -> Array:
  """bool[B], whether i32[B] `region` has prototypes."""
  return (region >= 0) & (region < prototypes.shape[0])


def lookup(prototypes: Array, region: Array) -> Array:
  """The prototypes of each sample's region; zeros where it is unknown.

  Args:
    prototypes: f32[R, Np, dp].
    region: i32[B].

  Returns:
    f32[B, Np, dp], no gradient.
  """
  # Numbers outside become R, out of bounds: -1 would be the last region.
  known = is_known(prototypes, region)
  index = jnp.where(known, region, prototypes.shape[0])
  found = prototypes.at[index].get(mode='fill', fill_value=0)
  return jax.lax.stop_gradient(found)


class GeoContext(nnx.Module):
  """Linear([F ; softmax(Q P' / sqrt(dp)) P]) for samples of a known region."""

  def __init__(
    self,
    dim: int,
    prototypes_dim: int,
    *,
    key: Array,
    std: float | None = linear.DEFAULT_STD,
  ):
    self.query = linear.Dense(
      dim, prototypes_dim, key=rng.named(key, 'query'), std=std
    )
    self.out = linear.Dense(
      dim + prototypes_dim, dim, key=rng.named(key, 'out'), std=std
    )
    # F starts as it is: samples without a region, which pass unchanged, and
    # samples with one then live on one scale.
    kernel = self.out.kernel[...]
    self.out.kernel[...] = kernel.at[:dim].set(jnp.eye(dim))

  def queries(self, features: Array) -> Array:
    """[..., d] -> [..., dp]: what prototypes are compared with and made of."""
    return self.query(features)

  def __call__(
    self, features: Array, prototypes: Array, valid: Array | None = None
  ) -> Array:
    """Features that know their region; softmax in float32.

    Args:
      features: [B, h, w, d], or [B, ..., d].
      prototypes: [B, Np, dp], those of each sample's region; zeros where it
        is unknown (`lookup`). No gradient into them.
      valid: bool[B], whose region is known; unless given, those whose
        prototypes are not all zeros. Others pass unchanged, bit for bit.

    Returns:
      The shape and dtype of `features`.
    """
    prototypes = jax.lax.stop_gradient(prototypes).astype(features.dtype)
    if valid is None:
      valid = (prototypes != 0).any((1, 2))
    prototypes = jnp.where(valid[:, None, None], prototypes, 0)
    b, *space, dim = features.shape
    flat = features.reshape(b, -1, dim)
    logits = jnp.einsum(
      'bnd,bpd->bnp',
      self.queries(flat),
      prototypes,
      preferred_element_type=jnp.float32,
    )
    weights = jax.nn.softmax(logits * prototypes.shape[-1] ** -0.5, axis=-1)
    context = jnp.einsum(
      'bnp,bpd->bnd', weights.astype(features.dtype), prototypes
    )
    y = self.out(jnp.concatenate([flat, context], -1))
    y = jnp.where(valid[:, None, None], y, flat)
    return y.reshape(b, *space, dim)
