"""One scene: a place, a date, a theme, and its ground."""

from collections.abc import Callable
import datetime
from typing import NamedTuple

import numpy as np

from rsfm_jax.data.synthetic import canvas
from rsfm_jax.data.synthetic import fields
from rsfm_jax.data.synthetic import ground as ground_lib
from rsfm_jax.data.synthetic import nature
from rsfm_jax.data.synthetic import optical
from rsfm_jax.data.synthetic import season
from rsfm_jax.data.synthetic import settle
from rsfm_jax.data.synthetic import towns

# Scene classes in label order: names are an API, new ones go to the end.
THEMES: dict[str, Callable[[canvas.Canvas], None]] = {
  'annual_crop': nature.annual_crop,
  'permanent_crop': nature.permanent_crop,
  'pasture': nature.pasture,
  'forest': nature.forest,
  'wetland': nature.wetland,
  'river': nature.river,
  'lake': nature.lake,
  'beach': nature.beach,
  'snow': nature.snow,
  'residential': towns.residential,
  'industrial': towns.industrial,
  'highway': towns.highway,
}
CLASSES = tuple(THEMES)

# Seven of ten samples of each class train, one validates, two test.
_SPLITS = ('train',) * 7 + ('val',) + ('test',) * 2
_EPOCH = datetime.date(2023, 1, 1)


class Scene(NamedTuple):
  """What a sample shows.

  Attributes:
    seed: of the whole set.
    index: of the sample.
    label: index into CLASSES.
    split: 'train', 'val' or 'test'.
    longitude: degrees, east positive.
    latitude: degrees, north positive.
    day: of the year of the first date.
    ground: the place.
    tint: [E, 2] local spectra, see optical.draw_tint.
  """

  seed: int
  index: int
  label: int
  split: str
  longitude: float
  latitude: float
  day: int
  ground: ground_lib.Ground
  tint: np.ndarray

  def stream(self, *names: str) -> np.random.Generator:
    """Random numbers of this scene for one purpose."""
    return fields.stream(self.seed, self.index, *names)


def date_of(day: int) -> str:
  """ISO date of a day counted from 1 January 2023."""
  return (_EPOCH + datetime.timedelta(days=int(day))).isoformat()


def compose(*, seed: int, index: int, size: int, scattered: int = 0) -> Scene:
  """The scene of sample `index`: a function of its arguments alone.

  Classes take turns, so that any run of samples is balanced, and every class
  is split alike.

  Args:
    seed: of the whole set, >= 0.
    index: of the sample, >= 0.
    size: height and width in pixels; a pixel is 1.4 to 2.8 m.
    scattered: objects to add, see `settle.scattered`.
  """
  label = index % len(CLASSES)
  theme = CLASSES[label]
  place = fields.stream(seed, index, 'place')
  gsd_m = 2.0 * 2.0 ** place.uniform(-0.5, 0.5)
  low, high = (42, 62) if theme == 'snow' else (8, 58)
  latitude = place.uniform(low, high)
  if place.random() < 0.3:
    latitude = -latitude
  drawn = canvas.Canvas(fields.stream(seed, index, 'layout'), size, gsd_m)
  THEMES[theme](drawn)
  settle.scattered(drawn, scattered)
  return Scene(
    seed=seed,
    index=index,
    label=label,
    split=_SPLITS[index // len(CLASSES) % len(_SPLITS)],
    longitude=float(place.uniform(-180, 180)),
    latitude=float(latitude),
    day=int(place.integers(season.DAYS)),
    ground=drawn.finish(),
    tint=optical.draw_tint(place),
  )
