"""`rsfm data inspect`: what a store holds, in text and as a picture."""

import argparse
import collections

import numpy as np

from rsfm_jax.cli import data_stats
from rsfm_jax.core import uris
from rsfm_jax.data import store as stores
from rsfm_jax.plots import contact_sheet
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import fingerprint

HELP = 'summary, contact sheet, histograms and band verdict of a store'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('store')
  parser.add_argument(
    '--out', help='folder of the pictures; default: the store'
  )
  parser.add_argument('--samples', type=int, default=24, help='chips to show')
  parser.add_argument('--split', help='default: all')
  parser.add_argument(
    '--verify', action='store_true', help='compare checksums first'
  )


def run(args: argparse.Namespace) -> int:
  store = stores.Store(args.store)
  if args.verify:
    store.verify()
  print('\n'.join(describe(store)))
  folder = uris.local(
    args.out or args.store, what='a picture', by='its writer', access='write'
  )
  folder.mkdir(parents=True, exist_ok=True)
  for name, sensor in store.sensors.items():
    images = pick(store, name, count=args.samples, split=args.split)
    verdict = fingerprint.verdict(images, sensor)
    print('\n'.join(data_stats.table(name, store.statistics_of(name))))
    print(f'{name}: {contact_sheet.summary(verdict)}')
    title = f'{store.folder.name}: {name}, {len(images)} of {len(store)}'
    figure = contact_sheet.draw(images, sensor, title=title, verdict=verdict)
    path = folder / f'inspect_{name}.png'
    figure.savefig(path)
    print(f'{name}: {path}')
  return 0


def describe(store: stores.Store) -> list[str]:
  """Counts by split and class, dates and places."""
  splits = collections.Counter(store.column('split'))
  lines = [
    f'{store.folder}: {len(store)} samples, '
    f'{sum(s["bytes"] for s in store.index["shards"]) / 1e6:.1f} MB, splits '
    + ', '.join(f'{k} {v}' for k, v in sorted(splits.items(), key=str))
  ]
  for column in ('source', 'licence', 'crs', 'date'):
    values = sorted({v for v in store.column(column) if v is not None})
    if values:
      more = f' and {len(values) - 4} more' if len(values) > 4 else ''
      lines.append(f'  {column}: {", ".join(values[:4])}{more}')
  if store.classes:
    counts = collections.Counter(store.column('label'))
    named = [f'{c} {counts[i]}' for i, c in enumerate(store.classes)]
    lines.append(f'  classes: {", ".join(named)}')
  return lines


def pick(
  store: stores.Store, sensor: str, *, count: int, split: str | None
) -> list[np.ndarray]:
  """Chips spread evenly over the store, [H, W, C] float32.

  Nodata and absent bands are NaN; complex SAR is divided by its scene scale.
  """
  indices = store.indices(split)
  chosen = np.linspace(0, len(indices) - 1, min(count, len(indices)))
  present = store.column('bands')
  contract_ = store.sensors[sensor]
  images = []
  for i in indices[chosen.round().astype(int)]:
    arrays = store.read(int(i))
    if f'{sensor}/image' not in arrays:
      continue
    image = arrays[f'{sensor}/image'].astype(np.float32)
    if contract_.kind == contract.Kind.SAR_COMPLEX:
      image = image / arrays[f'{sensor}/scene_scale']
    if (valid := arrays.get(f'{sensor}/valid')) is not None:
      image[~valid] = np.nan
    have = (present[i] or {}).get(sensor, contract_.band_names)
    image[..., [b not in have for b in contract_.band_names]] = np.nan
    images.append(image)
  return images
