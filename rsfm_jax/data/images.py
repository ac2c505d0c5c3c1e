"""JPEG and PNG scenes, by Pillow."""

import io

import numpy as np
from PIL import Image

# Satellite mosaics are larger than the limit against decompression bombs, and
# the files are the user's own.
Image.MAX_IMAGE_PIXELS = None


def read(data: bytes, *, name: str, channels: int) -> np.ndarray:
  """Decodes one image.

  Args:
    data: the file's bytes.
    name: the file, for messages.
    channels: 1 or 3; a palette or grey image becomes RGB where 3 are asked,
      a colour image is refused where 1 is asked.

  Returns:
    uint8 [H, W, channels].

  Raises:
    ValueError: the data is truncated or no image, or its channels differ.
  """
  try:
    with Image.open(io.BytesIO(data)) as image:
      mode = image.mode
      if channels == 3 and mode in ('L', 'P'):
        image = image.convert('RGB')
      pixels = np.asarray(image)
  except (OSError, SyntaxError, ValueError) as error:
    raise ValueError(f'{name} is truncated or no image: {error}') from error
  if pixels.ndim == 2:
    pixels = pixels[..., None]
  if pixels.dtype != np.uint8 or pixels.shape[-1] != channels:
    raise ValueError(
      f'{name} has {pixels.shape[-1]} channels of {pixels.dtype} (mode '
      f'{mode}); {channels} of uint8 are needed.'
    )
  return pixels
