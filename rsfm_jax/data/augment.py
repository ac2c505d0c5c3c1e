"""Windows, crops and flips; complex SAR keeps its very pixel values.

Interpolating a complex image mixes the phases of neighbouring speckle cells,
so complex SAR is only sliced, flipped and turned. Everything else takes a
random resized crop. All sensors of a sample see the same ground and the same
symmetry. Random numbers come from the generator that the caller passes in.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from rsfm_jax.core import choices

Symmetry = Literal['none', 'flip', 'd4']
Filter = Literal['nearest', 'bilinear', 'bicubic']

_SYMMETRIES = {'none': 1, 'flip': 2, 'd4': 8}
_FILTERS = {
  'nearest': Image.Resampling.NEAREST,
  'bilinear': Image.Resampling.BILINEAR,
  'bicubic': Image.Resampling.BICUBIC,
}
_TRIES = 10  # As torchvision's RandomResizedCrop.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crop:
  """A random resized crop and a symmetry.

  The defaults are those of RingMoE's code (facts/ringmoe.md, section on
  pre-training data: area 0.2-0.5, aspect 3/4-4/3, bicubic), with the eight
  symmetries of the square in place of the horizontal flip alone: seen from
  above, no direction is special.

  Attributes:
    size: pixels of the output, square.
    area: range of the window's share of the image; resized sensors only.
    aspect: range of width / height of the window; resized sensors only.
    symmetry: none, flip (left-right, half of the time) or d4 (all eight).
    filter: how real bands are resampled; antialiased.
  """

  size: int
  area: tuple[float, float] = (0.2, 0.5)
  aspect: tuple[float, float] = (3 / 4, 4 / 3)
  symmetry: Symmetry = 'd4'
  filter: Filter = 'bicubic'

  def __post_init__(self):
    choices.check(self.symmetry, get_args(Symmetry), key='crop.symmetry')
    choices.check(self.filter, get_args(Filter), key='crop.filter')
    if self.size < 1:
      raise ValueError(f'crop.size={self.size} must be positive.')
    if not 0 < self.area[0] <= self.area[1] <= 1:
      raise ValueError(f'crop.area={self.area} must be a range in (0, 1].')
    if not 0 < self.aspect[0] <= self.aspect[1]:
      raise ValueError(f'crop.aspect={self.aspect} must be a positive range.')


class Box(NamedTuple):
  """A window in pixels of one image; fractions are allowed."""

  top: float
  left: float
  height: float
  width: float


def random_box(
  rng: np.random.Generator, shape: Sequence[int], crop: Crop
) -> Box:
  """A whole-pixel window of random area and aspect inside an image.

  Args:
    rng: draws the window.
    shape: (H, W) of the image.
    crop: `area` and `aspect` count.
  """
  height, width = shape
  low, high = math.log(crop.aspect[0]), math.log(crop.aspect[1])
  for _ in range(_TRIES):
    area = height * width * rng.uniform(*crop.area)
    aspect = math.exp(rng.uniform(low, high))
    h = max(1, round(math.sqrt(area / aspect)))
    w = max(1, round(math.sqrt(area * aspect)))
    if h <= height and w <= width:
      return _place(rng, shape, h, w)
  side = max(1, round(math.sqrt(height * width * crop.area[1])))
  return _place(rng, shape, min(side, height), min(side, width))


def exact_box(rng: np.random.Generator, shape: Sequence[int], size: int) -> Box:
  """A window of exactly size x size pixels, at random.

  Raises:
    ValueError: the image is smaller than that.
  """
  _check_fits(shape, size)
  return _place(rng, shape, size, size)


def centre_box(shape: Sequence[int], size: int) -> Box:
  """The size x size pixels in the middle.

  Raises:
    ValueError: the image is smaller than that.
  """
  _check_fits(shape, size)
  return Box((shape[0] - size) // 2, (shape[1] - size) // 2, size, size)


def transfer(box: Box, source: Sequence[int], target: Sequence[int]) -> Box:
  """The same ground in an image of another size over the same extent."""
  y, x = target[0] / source[0], target[1] / source[1]
  return Box(box.top * y, box.left * x, box.height * y, box.width * x)


def cut(array: np.ndarray, box: Box) -> np.ndarray:
  """The smallest whole-pixel window that contains `box`, as a view."""
  top, left = math.floor(box.top), math.floor(box.left)
  bottom = math.ceil(box.top + box.height - 1e-6)
  right = math.ceil(box.left + box.width - 1e-6)
  return array[top:bottom, left:right]


def resize(
  image: np.ndarray, box: Box, size: int, *, filter: Filter
) -> np.ndarray:
  """Resamples a window of real values, with antialiasing.

  Args:
    image: [H, W] or [H, W, C] real; no NaN.
    box: the window within `image`.
    size: pixels of the output, square.
    filter: which kernel.

  Returns:
    [size, size(, C)]: uint8 stays uint8 (rounded), the rest is float32. Whole
    pixels that need no resampling are copied as they are.
  """
  if (box.height, box.width) == (size, size) and not (
    box.top % 1 or box.left % 1
  ):
    return cut(image, box)
  if image.dtype != np.uint8:
    image = image.astype(np.float32, copy=False)
  if image.ndim == 3 and not (image.dtype == np.uint8 and image.shape[2] == 3):
    bands = [
      _resize(band, box, size, filter) for band in image.transpose(2, 0, 1)
    ]
    return np.stack(bands, axis=-1)
  return _resize(image, box, size, filter)


def resize_valid(valid: np.ndarray, box: Box, size: int, *, filter: Filter):
  """Valid where every pixel that `resize` mixes in is. bool [H, W]."""
  share = resize(valid.astype(np.float32), box, size, filter=filter)
  # Bicubic weights may be negative: an invalid pixel also pushes above one.
  return np.abs(share - 1) < 1e-4


def random_symmetry(rng: np.random.Generator, symmetry: Symmetry) -> int:
  """Draws the number of a symmetry for `apply_symmetry`."""
  count = _SYMMETRIES[symmetry]
  return int(rng.integers(count)) if count > 1 else 0


def apply_symmetry(array: np.ndarray, number: int) -> np.ndarray:
  """One of the eight symmetries of the square; moves pixels, changes none.

  Args:
    array: [S, S, ...].
    number: 0 to 7; odd numbers mirror left-right first, then number // 2
      quarter turns.
  """
  if number % 2:
    array = array[:, ::-1]
  return np.rot90(array, number // 2)


def _place(rng: np.random.Generator, shape, height: int, width: int) -> Box:
  top = int(rng.integers(shape[0] - height + 1))
  left = int(rng.integers(shape[1] - width + 1))
  return Box(top, left, height, width)


def _check_fits(shape: Sequence[int], size: int) -> None:
  if min(shape) < size:
    raise ValueError(
      f'a window of {size} x {size} pixels does not fit into an image of '
      f'{shape[0]} x {shape[1]}; lower the crop size or pack larger chips.'
    )


def _resize(plane: np.ndarray, box: Box, size: int, filter: Filter):
  image = Image.fromarray(np.ascontiguousarray(plane))
  corners = (box.left, box.top, box.left + box.width, box.top + box.height)
  return np.asarray(image.resize((size, size), _FILTERS[filter], box=corners))
