"""Random streams by name, and smooth random fields by filtering noise."""

import functools
import zlib

import numpy as np
from scipy import fft


def stream(seed: int, index: int, *names: str) -> np.random.Generator:
  """The random numbers of sample `index` for one purpose.

  Streams are told apart by name, so that a new user of randomness moves no
  other one, and sample `index` never depends on another sample.
  """
  words = [seed, index, *(zlib.crc32(name.encode()) for name in names)]
  return np.random.Generator(np.random.SFC64(np.random.SeedSequence(words)))


@functools.lru_cache(maxsize=16)
def _frequency(size: int) -> np.ndarray:
  """Radial frequency in cycles per pixel, float32[H, W // 2 + 1]."""
  y = np.fft.fftfreq(size)[:, None]
  x = np.fft.rfftfreq(size)[None, :]
  return np.hypot(y, x).astype(np.float32)


def fractal(size: int, slope: float) -> np.ndarray:
  """Filter of 1/f^slope amplitude, without the mean. [H, W // 2 + 1]."""
  frequency = _frequency(size)
  return np.where(frequency > 0, np.maximum(frequency, 1e-6) ** -slope, 0)


def bandpass(size: int, wavelength: float, octaves: float = 0.5) -> np.ndarray:
  """Log-normal filter around `wavelength` pixels. [H, W // 2 + 1]."""
  # Finer than the pixel grid can hold would leave nothing to normalise.
  wavelength = min(max(wavelength, 2.2), size / 2)
  distance = np.log2(np.maximum(_frequency(size), 1e-6) * wavelength)
  return np.exp(-0.5 * (distance / octaves) ** 2)


def filtered(rng: np.random.Generator, filters: list[np.ndarray]) -> np.ndarray:
  """Independent Gaussian fields, one per filter: mean 0, variance 1.

  Args:
    rng: source of white noise.
    filters: n amplitude filters [H, W // 2 + 1] of square images.

  Returns:
    float32 [n, H, W], periodic in both directions.
  """
  size = filters[0].shape[0]
  white = rng.standard_normal((len(filters), size, size), np.float32)
  spectrum = fft.rfft2(white) * np.stack(filters).astype(np.float32)
  fields = fft.irfft2(spectrum, s=(size, size))
  fields -= fields.mean((1, 2), keepdims=True)
  return fields / (fields.std((1, 2), keepdims=True) + 1e-9)


def smooth(image: np.ndarray, width: float = 0.2) -> np.ndarray:
  """Point spread of [H, W, ...]: taps (width, 1 - 2 width, width) per axis."""
  for axis in (0, 1):
    ends = [(1, 1) if a == axis else (0, 0) for a in range(image.ndim)]
    padded = np.pad(image, ends, mode='edge')
    before, after = [slice(None)] * image.ndim, [slice(None)] * image.ndim
    before[axis], after[axis] = slice(None, -2), slice(2, None)
    sides = padded[tuple(before)] + padded[tuple(after)]
    image = (1 - 2 * width) * image + width * sides
  return image.astype(np.float32)


def box_mean(image: np.ndarray, window: int) -> np.ndarray:
  """Mean over an odd `window` x `window`, centred; edges are mirrored.

  image: [H, W, ...] float; returns the same shape.
  """
  half = window // 2
  for axis in (0, 1):
    ends = [(half, half) if a == axis else (0, 0) for a in range(image.ndim)]
    padded = np.pad(image, ends, mode='symmetric')
    length = image.shape[axis]
    parts = [
      padded[(slice(None),) * axis + (slice(k, k + length),)]
      for k in range(window)
    ]
    image = sum(parts[1:], parts[0]) / window
  return image
