"""Freed pages go back when asked."""

import sys

import numpy as np
import pytest

from rsfm_jax.core import memory


def test_the_peak_never_falls_and_counts_what_was_touched():
  before = memory.peak_bytes()
  touched = np.ones(2**24)  # 128 MiB.
  after = memory.peak_bytes()
  assert after >= before
  assert after > touched.nbytes
  del touched
  assert memory.peak_bytes() >= after


@pytest.mark.skipif(
  not sys.platform.startswith('linux'), reason='glibc is asked'
)
def test_trimming_is_harmless_and_keeping_is_granted():
  assert memory.keep_freed_memory()
  assert memory.trim() in (True, False)
