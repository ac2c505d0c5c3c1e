"""Principal components, for figures that show features."""

from typing import NamedTuple

import numpy as np


class Components(NamedTuple):
  """The leading principal components of some vectors.

  Attributes:
    values: f64[N, K], of each vector.
    shares: f64[K], of the variance.
  """

  values: np.ndarray
  shares: np.ndarray


def principal(features: np.ndarray, count: int) -> Components:
  """The `count` leading components of [N, D], centred.

  The sign makes the largest loading positive, so that a rerun looks the same.

  Raises:
    ValueError: fewer dimensions than components.
  """
  features = np.asarray(features, np.float64)
  if features.ndim != 2 or features.shape[-1] < count:
    raise ValueError(
      f'features of shape {features.shape} have not the {count} dimensions '
      'that are to be shown.'
    )
  flat = features - features.mean(0)
  # eigh sorts upwards: the last columns carry the most variance.
  power, vectors = np.linalg.eigh(flat.T @ flat)
  vectors = vectors[:, : -count - 1 : -1]
  largest = np.abs(vectors).argmax(0)
  vectors = vectors * np.sign(vectors[largest, np.arange(count)])
  shares = power[: -count - 1 : -1] / max(power.sum(), 1e-300)
  return Components(flat @ vectors, np.maximum(shares, 0))
