"""Process memory: keeping freed pages, and the peak so far."""

import ctypes
import resource
import sys

# glibc's mallopt parameters (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
  """Makes glibc keep what is freed; call it before the first big array.

  XLA on CPU takes its temporary buffers from malloc at every step. By default
  glibc maps each big one anew and gives it back, so every step pays a page
  fault for every 4 KiB it touches: half the CPU time of isolated attention and
  FFN gradients at 37k tokens; the share in a whole step was not isolated
  (benchmarks/allocator.py). Elsewhere than on Linux with glibc it does
  nothing.

  Returns:
    Whether glibc took all settings.
  """
  if not sys.platform.startswith('linux'):
    return False
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:
    return False
  settings = (
    (_MMAP_MAX, 0),
    (_TRIM_THRESHOLD, _NEVER),
    (_TOP_PAD, 64 << 20),
    (_ARENA_MAX, 1),
  )
  return all([mallopt(name, value) == 1 for name, value in settings])


def trim() -> bool:
  """Gives freed pages back, once; good after a compile, which needs many.

  Returns:
    Whether this process's allocator could do it.
  """
  if not sys.platform.startswith('linux'):
    return False
  malloc_trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
  return malloc_trim is not None and malloc_trim(0) == 1


def peak_bytes() -> int:
  """Largest resident size of this process so far, in bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else peak * 1024
