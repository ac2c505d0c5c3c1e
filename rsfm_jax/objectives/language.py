"""Dense image-text alignment: ITA of SkySense V2 (Eq. 12).

Every labelled cell of a feature map is classified by its cosine to the text
embeddings of the class names. The printed equation has the logarithm outside
the sum over pixels; this is the usual mean of -log softmax.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rsfm_jax.objectives import dino

Array = jax.Array

UNLABELLED = 255


def loss(
  features: Array,
  classes: Array,
  table: Array,
  *,
  project: Callable[[Array], Array],
  temperature: float = 0.07,
  valid: Array | None = None,
) -> Array:
  """Cross-entropy of cells against a frozen table of class vectors.

  Args:
    features: [..., D], such as [B, h, w, D].
    classes: u8[...]; 255 and ids that the table lacks do not count.
    table: f32[K, E] of text embeddings; no gradient; normalised here.
    project: [N, D] -> [N, E].
    temperature: NOT FOUND in the paper, DEFAULT CLIP's 0.07.
    valid: bool[...], further cells that do not count: padding, clouds.

  Returns:
    f32[], mean over counted cells; 0 when none is. What stands in the others
    has no effect.

  Raises:
    ValueError: shapes that do not match, or more classes than a mask can name.
  """
  if features.shape[:-1] != classes.shape:
    raise ValueError(
      f'classes {classes.shape} must be those of features {features.shape} '
      'without the last dimension; see language.majority.'
    )
  if len(table) > UNLABELLED:
    raise ValueError(
      f'The table has {len(table)} classes; masks of bytes know {UNLABELLED}.'
    )
  counts = classes.astype(jnp.int32) < len(table)
  if valid is not None:
    counts &= valid
  counts = counts.reshape(-1)
  rows = dino.weighted(features.reshape(-1, features.shape[-1]), counts)
  texts = dino.unit(jax.lax.stop_gradient(table))
  logits = jnp.einsum(
    'nd,kd->nk',
    dino.unit(project(rows)),
    texts,
    preferred_element_type=jnp.float32,
  )
  label = jnp.where(counts, classes.reshape(-1), 0).astype(jnp.int32)
  chances = jax.nn.log_softmax(logits / temperature)
  own = jnp.take_along_axis(chances, label[:, None], 1)[:, 0]
  return -dino.row_mean(own, counts)


def majority(landcover: Array, factor: int) -> Array:
  """The most frequent label of each cell of factor x factor pixels.

  Unlabelled pixels (255) do not vote; ties go to the smaller id.

  Args:
    landcover: u8[B, H, W].
    factor: pixels per cell along a side; divides H and W.

  Returns:
    u8[B, H / factor, W / factor], 255 where no pixel is labelled.

  Raises:
    ValueError: the factor does not divide the sides.
  """
  batch, height, width = landcover.shape
  if factor < 1 or height % factor or width % factor:
    raise ValueError(
      f'factor={factor} does not divide the {height} x {width} landcover.'
    )
  size = batch, height // factor, factor, width // factor, factor
  cells = landcover.reshape(size).transpose(0, 1, 3, 2, 4)
  # In sorted cells a label is a run; the longest that is no 255 wins.
  cells = jnp.sort(cells.reshape(*cells.shape[:3], -1), -1)
  place = jnp.arange(cells.shape[-1])
  place = jnp.broadcast_to(place.reshape(1, 1, 1, -1), cells.shape)
  # The first run starts at 0 whatever the last label is.
  changes = cells != jnp.roll(cells, 1, -1)
  start = jax.lax.cummax(jnp.where(changes, place, 0), axis=3)
  length = jnp.where(cells == UNLABELLED, 0, place - start + 1)
  best = jnp.argmax(length, -1, keepdims=True)
  return jnp.take_along_axis(cells, best, -1)[..., 0]
