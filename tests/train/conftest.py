"""Gives tests the toy, a module that also runs as a program of its own."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest


@pytest.fixture(scope='session')
def toy():
  path = pathlib.Path(__file__).with_name('toy.py')
  spec = importlib.util.spec_from_file_location('toy', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def equal():
  """Asserts that two trees have the same names and the same bits."""

  def check(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
      np.testing.assert_array_equal(np.asarray(x), np.asarray(y))

  return check
