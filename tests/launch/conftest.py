"""The FFN step as a module, and a skip where there is no TPU compiler."""

import importlib.util
import pathlib

import pytest


@pytest.fixture(scope='session')
def ffn():
  path = pathlib.Path(__file__).with_name('ffn.py')
  spec = importlib.util.spec_from_file_location('ffn', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='session')
def libtpu():
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip("no TPU compiler: pip install 'rsfm-jax[tpu]'")
