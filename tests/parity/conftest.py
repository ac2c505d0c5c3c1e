"""Golden arrays of reference implementations: reading, comparing."""

import json
from typing import Any, NamedTuple

import numpy as np
import pytest


class Fixture(NamedTuple):
  """One golden file: its arrays and what it says about itself."""

  arrays: Any
  meta: dict[str, Any]

  def __getitem__(self, name):
    return self.arrays[name]

  def group(self, prefix):
    """{name without the prefix: array} of all arrays under it."""
    return {
      name.removeprefix(prefix): self.arrays[name]
      for name in self.arrays.files
      if name.startswith(prefix)
    }


@pytest.fixture(scope='session')
def golden(shared):
  """`golden(name)` -> Fixture, or a skip where the folder is absent."""

  def read(name):
    path = shared / 'parity' / f'{name}.npz'
    if not path.is_file():
      pytest.skip(f'{path} is absent')
    arrays = np.load(path, allow_pickle=False)
    return Fixture(arrays, json.loads(str(arrays['meta_json'])))

  return read


@pytest.fixture(scope='session')
def near():
  """`near(got, golden, limit, scale=None)`: max|a - b| / max|b| < limit.

  `scale` replaces max|b| for gradients that are zero by theory: the largest
  gradient of the fixture.
  """

  def check(got, expected, limit, scale=None, name=''):
    got, expected = np.asarray(got, np.float64), np.asarray(expected)
    assert got.shape == expected.shape, name
    largest = np.abs(expected).max() if scale is None else scale
    error = np.abs(got - expected).max() / largest
    assert error < limit, f'{name}: relative error {error:.1e}'

  return check
