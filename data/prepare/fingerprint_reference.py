"""Makes the Sentinel-2 L1C fingerprint from real scenes with known bands.

  python data/prepare/fingerprint_reference.py --shared ../shared

Sources: OSCD (both dates of seven cities, one file per named band), one
SSL4EO-S12 location (two dates, one file per named band) and the SEN12MS-CR
samples (13 bands in the order of the mission). EuroSAT is left out on purpose:
its samples are what the fingerprint is tested on. Only per-band statistics and
correlations are written, no pixels.

--held-out writes nothing: it judges every location by a reference made without
it, as it is, in 64 px crops, and with each two bands of the OSCD scenes
swapped, and prints how often the fingerprint is right (about two minutes).
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
import functools
import itertools
import pathlib

import numpy as np
import rasterio

from rsfm_jax.core import files
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import fingerprint

SENSOR = catalogue.get('sentinel2_l1c')


def read_folder(folder: pathlib.Path, *, size: int) -> np.ndarray:
  """One file per band, 'B02.tif' or 'B2.tif' -> [size, size, 13] DN."""
  planes = []
  for band in SENSOR.band_names:
    path = folder / f'{band}.tif'
    if not path.exists():
      path = folder / f'{band.replace("B0", "B")}.tif'
    with rasterio.open(path) as file:
      # Nearest neighbour, rasterio's default, leaves a band's moments alone.
      planes.append(file.read(1, out_shape=(size, size)))
  return np.stack(planes, axis=-1)


def read_stack(path: pathlib.Path) -> np.ndarray:
  with rasterio.open(path) as file:
    return file.read().transpose(1, 2, 0)


def scenes(data: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (location, image [H, W, 13])."""
  for folder in sorted((data / 'oscd_s2_change').glob('*/date?')):
    yield f'OSCD {folder.parent.name}', read_folder(folder, size=252)
  for folder in sorted((data / 'ssl4eo_s12_sample' / 's2c').glob('*/*')):
    yield f'SSL4EO-S12 {folder.parent.name}', read_folder(folder, size=264)
  for path in sorted((data / 'sen12mscr').glob('*/s2*/*.tif')):
    # 'ROIs1868_summer_s2_135_p239': the scene number is the location.
    yield f'SEN12MS-CR {path.stem.split("_")[-2]}', read_stack(path)


def crops(image: np.ndarray, size: int = 64) -> Iterator[np.ndarray]:
  height, width, _ = image.shape
  for i in range(0, height - size + 1, size):
    for j in range(0, width - size + 1, size):
      yield image[i : i + size, j : j + size]


def held_out(locations: Mapping[str, Sequence[np.ndarray]]) -> None:
  """Prints how often verdicts are right on locations never seen."""
  names = SENSOR.band_names
  right = {'scenes pass': [], 'crops pass': [], 'swaps named': []}
  distances = []
  for location, images in locations.items():
    rest = {k: v for k, v in locations.items() if k != location}
    reference = fingerprint.build(rest, SENSOR)
    judge = functools.partial(
      fingerprint.verdict, sensor=SENSOR, reference=reference
    )
    for image in images:
      right['scenes pass'].append(judge([image]).ok)
      for crop in crops(image):
        found = judge([crop])
        right['crops pass'].append(found.ok)
        distances.append(found.distance)
      if not location.startswith('OSCD'):
        continue
      for i, j in itertools.combinations(range(len(names)), 2):
        order = np.arange(len(names))
        order[[i, j]] = j, i
        found = judge([image[::3, ::3, order]]).findings
        right['swaps named'].append(
          set(found)
          == {
            f'slot {names[i]} looks like {names[j]}',
            f'slot {names[j]} looks like {names[i]}',
          }
        )
    print(location, {k: f'{sum(v)}/{len(v)}' for k, v in right.items()})
  print(f'distance of crops: at most {max(distances):.0f}')


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--shared', type=pathlib.Path, default='../shared')
  parser.add_argument('--held-out', action='store_true')
  args = parser.parse_args()
  locations: dict[str, list[np.ndarray]] = {}
  for location, image in scenes(args.shared / 'data'):
    locations.setdefault(location, []).append(image)
  if args.held_out:
    held_out(locations)
    return
  sources = [f'{name}: {len(images)}' for name, images in locations.items()]
  reference = fingerprint.build(locations, SENSOR, sources=sources)
  path = fingerprint.FOLDER / f'{SENSOR.name}.json'
  files.write_json(path, reference.to_json())
  print(f'{path}: {", ".join(sources)}')


if __name__ == '__main__':
  main()
