"""Maps a scene of any size with a fine-tuned model, or with an encoder.

Windows of a GeoTIFF pass the model and are blended into a Cloud Optimized
GeoTIFF on the scene's own grid: classes, changes, numbers, or embeddings.
Memory does not grow with the scene. Run it again to go on after a kill; the
bytes are those of a run that was never stopped.
"""

import argparse
import colorsys
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from rsfm_jax.cli import predictor as predictors
from rsfm_jax.core import memory
from rsfm_jax.core import progress
from rsfm_jax.data import cog
from rsfm_jax.data import mosaic
from rsfm_jax.data import raster
from rsfm_jax.data import scenes
from rsfm_jax.evaluate import mapping
from rsfm_jax.models import encoder
from rsfm_jax.sensors import catalogue
from rsfm_jax.tasks import losses

HELP = 'a scene of any size to a map: classes, changes, numbers, embeddings'
KINDS = ('prediction', 'probabilities', predictors.EMBEDDING)
_PANEL = 1024  # Pixels of a panel; memory and seams that are computed twice.


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('model', help='workdir of rsfm finetune; for embeddings any model')
  add('scene', help='GeoTIFF; of changes the earlier one')
  add('--out', required=True, help='the map, a .tif')
  add('--after', help='the later scene, for a model of changes')
  add('--as', dest='kind', choices=KINDS, default=KINDS[0])
  add('--stage', default=encoder.FINAL, help='of embeddings')
  add('--sensor', help='of the model, for embeddings; default its only one')
  add('--which', choices=('auto', 'params', 'ema'), default='auto')
  add('--input', help="the scene's contract in the catalogue; default the "
      "model's sensor")  # fmt: skip
  add('--bands', type=_names, default=(), metavar='A,B',
      help="of the file in its order, '' skips one; default its "
      'descriptions')  # fmt: skip
  add('--missing_bands', choices=('error', 'mask', 'impute'), default='error')
  add('--nodata', type=float, help='of a file that declares none')
  add('--processing_baseline', help='of Sentinel-2 DN, e.g. 05.09')
  add('--crs', help='of a scene that has none, e.g. EPSG:32632')
  add('--size', type=int, help='pixels of a window; default as trained')
  add('--halo', type=int, help='pixels at its edges that do not count; 1/8')
  add('--stride', type=int, help='from window to window; default size - 3/8')
  add('--batch_size', type=int, default=8)
  add('--classes', type=_names, default=(), metavar='A,B', help='names')
  add('--colours', type=_names, default=(), metavar='#RRGGBB,...')
  add('--overwrite', action='store_true', help='an --out that is there')


class Opened(NamedTuple):
  """Scenes of a map, and the grid that they share.

  Attributes:
    scenes: one, or before and after.
    georeference: of the first.
  """

  scenes: tuple[scenes.Scene, ...]
  georeference: raster.Georeference

  def read(self, window: raster.Window) -> tuple[np.ndarray, np.ndarray]:
    """f32[(2,) H, W, C] and bool[H, W], where all of them are valid."""
    found = [scene.read(window) for scene in self.scenes]
    if len(found) == 1:
      return found[0]
    images, valid = zip(*found)
    return np.stack(images), np.logical_and(*valid)

  def close(self) -> None:
    for scene in self.scenes:
      scene.frame.close()


def run(args: argparse.Namespace) -> int:
  out = pathlib.Path(args.out)
  if out.suffix.lower() not in ('.tif', '.tiff'):
    raise ValueError(f'--out {out}: a map is a .tif.')
  if out.exists() and not args.overwrite:
    raise ValueError(f'--out {out} is there already; give --overwrite.')
  if args.batch_size < 1:
    raise ValueError(f'--batch_size {args.batch_size} must be at least 1.')
  model = _model(args)
  opened = _opened(args, model)
  try:
    plan = _plan(args, model, opened.scenes[0].shape)
    layout = _layout(args, model, opened, plan)
    print('\n'.join(_map(args, model, opened, plan, layout)))
  finally:
    opened.close()
  return 0


def _model(args: argparse.Namespace) -> predictors.Predictor:
  if args.size is not None and args.size < 1:
    raise ValueError(f'--size {args.size} must be at least 1.')
  if args.kind == predictors.EMBEDDING:
    model = predictors.embedding(
      args.model,
      sensor=args.sensor,
      stage=args.stage,
      size=args.size,
      which=args.which,
    )
  else:
    model = predictors.tuned(args.model, size=args.size)
  if (args.after is None) != (model.dates == 1):
    raise ValueError(
      f'--after {args.after}: {args.model} maps {model.kind} from '
      f'{model.dates} scene{"s" if model.dates > 1 else ""}.'
    )
  return model


def _opened(args: argparse.Namespace, model: predictors.Predictor) -> Opened:
  """Opens scenes on one grid.

  Raises:
    ValueError: no CRS, no ground in common, or bands that do not fit.
  """
  options = {
    'files': catalogue.get(args.input) if args.input else model.sensor,
    'want': model.sensor,
    'statistics': model.statistics,
    'bands': args.bands,
    'nodata': args.nodata,
    'missing_bands': args.missing_bands,
    'processing_baseline': args.processing_baseline,
  }
  found = [scenes.open_scene(args.scene, **options)]
  try:
    where = found[0].frame.georeference
    if args.crs:
      if where.crs:
        raise ValueError(f'--crs {args.crs}: {args.scene} has a CRS itself.')
      where = where._replace(crs=cog.wkt_of(args.crs))
    if not where.crs:
      raise ValueError(
        f'{args.scene} has no CRS, so its map would have no place; give it '
        'by --crs EPSG:CODE.'
      )
    if args.after:
      found.append(scenes.open_beside(args.after, found[0], **options))
  except ValueError:
    for scene in found:
      scene.frame.close()
    raise
  return Opened(tuple(found), where)


def _plan(
  args: argparse.Namespace,
  model: predictors.Predictor,
  shape: tuple[int, int],
) -> mosaic.Mosaic:
  """Windows in cells of the map.

  Raises:
    ValueError: sizes that are no whole cells, or do not fit each other.
  """
  cell, size = model.cell, model.size
  # DEFAULT: an eighth of a window is halo, an eighth is blended.
  eighth = size // 8 // cell * cell
  halo = eighth if args.halo is None else args.halo
  stride = args.stride
  if stride is None:
    stride = max(size - 2 * halo - eighth, cell)
  for key, value in (('halo', halo), ('stride', stride)):
    if value % cell:
      raise ValueError(
        f'--{key} {value} is no multiple of {cell} pixels, one token.'
      )
  height, width = (-(-side // cell) for side in shape)
  return mosaic.Mosaic(
    height=height,
    width=width,
    size=size // cell,
    stride=stride // cell,
    halo=halo // cell,
    cell=cell,
    panel=max(_PANEL, size) // cell,
  )


def _layout(
  args: argparse.Namespace,
  model: predictors.Predictor,
  opened: Opened,
  plan: mosaic.Mosaic,
) -> cog.Layout:
  """What the file is to be.

  Raises:
    ValueError: names or colours of another number than there are classes.
  """
  classes = model.kind in ('segmentation', 'change')
  for key in ('classes', 'colours'):
    given = getattr(args, key)
    if given and (not classes or len(given) != model.outputs):
      raise ValueError(
        f'--{key} names {len(given)}; {args.model} has '
        f'{model.outputs if classes else "no"} classes.'
      )
  names = args.classes or tuple(str(i) for i in range(model.outputs))
  tags = {'RSFM_MODEL': model.content_hash, 'RSFM_KIND': model.kind}
  if classes:
    tags['RSFM_CLASSES'] = ','.join(names)
  shown = classes and args.kind == 'prediction'
  bands, colours = (model.kind,), ()
  if shown:
    colours = _colours(args.colours, model.outputs)
  elif model.kind == predictors.EMBEDDING:
    bands = tuple(f'{args.stage}_{i}' for i in range(model.outputs))
  elif classes:
    bands = names
  return cog.Layout(
    height=plan.height,
    width=plan.width,
    bands=bands,
    dtype='uint8' if shown else 'float32',
    nodata=losses.UNLABELLED if shown else float('nan'),
    georeference=opened.georeference.coarser(plan.cell),
    colours=colours,
    tags=tuple(tags.items()),
  )


def _map(args, model, opened, plan, layout) -> list[str]:
  """Makes the map; returns what a person reads about it."""
  steps = list(plan.steps())
  total = sum(len(step.columns) for step in steps)
  with cog.MapWriter(args.out, layout, job=_job(args, model, plan)) as writer:
    todo = sum(len(s.columns) for s in plan.steps(writer.done))
    what = pathlib.Path(args.out).name
    with progress.bar(
      total=total, initial=total - todo, what=what, unit='window'
    ) as bar:

      def write(window, scores, valid, number):
        values = _values(scores, valid, layout)
        writer.write(window, values, done=number + 1)

      waited = mapping.make(
        plan,
        read=opened.read,
        model=model.call,
        write=write,
        batch_size=args.batch_size,
        done=writer.done,
        advance=bar.update,
      )
    path = writer.finish()
  pixels = layout.height * layout.width * plan.cell**2
  return [
    f'{path}: {layout.height} x {layout.width} x {len(layout.bands)} '
    f'{layout.dtype} of {pixels / 1e6:.1f} million pixels',
    f'  {todo} of {total} windows in {waited.seconds:.1f} s, waited for '
    f'input and output {waited.share:.1%} of it; peak memory '
    f'{memory.peak_bytes() / 2**20:.0f} MiB',
  ]


def _values(
  scores: np.ndarray, valid: np.ndarray, layout: cog.Layout
) -> np.ndarray:
  """Blended numbers to values of the file, [H, W, bands].

  Raises:
    ValueError: numbers that are not finite where the scene is valid.
  """
  if not np.isfinite(scores[valid]).all():
    raise ValueError('the model gives numbers that are not finite.')
  if layout.dtype == 'uint8':
    scores = scores.argmax(-1, keepdims=True)
  nodata = np.array(layout.nodata)
  return np.where(valid[..., None], scores, nodata).astype(layout.dtype)


def _job(args, model, plan) -> dict[str, Any]:
  """What the bytes of a map are a function of."""
  kept = ('kind', 'stage', 'input', 'bands', 'missing_bands', 'nodata')
  kept += ('processing_baseline', 'crs', 'batch_size', 'classes', 'colours')
  job: dict[str, Any] = {
    name: list(v) if isinstance(v := getattr(args, name), tuple) else v
    for name in kept
  }
  job['model'] = model.content_hash
  for name in ('height', 'width', 'size', 'stride', 'halo', 'cell', 'panel'):
    job[name] = getattr(plan, name)
  for name in ('scene', 'after'):
    path = getattr(args, name)
    job[name] = path
    if path and pathlib.Path(path).is_file():
      found = pathlib.Path(path).stat()
      job[name] = [path, found.st_size, found.st_mtime_ns]
  return job


def _colours(
  given: tuple[str, ...], count: int
) -> tuple[tuple[int, int, int], ...]:
  """Of the classes; by default hues that differ.

  Raises:
    ValueError: no colour like #1f77b4.
  """
  if not given:
    # Steps of the golden ratio keep any number of hues apart.
    hues = [(0.6180339887 * i) % 1 for i in range(count)]
    found = [colorsys.hsv_to_rgb(h, 0.65, 0.9) for h in hues]
    return tuple(tuple(round(255 * v) for v in rgb) for rgb in found)
  for text in given:
    if not re.fullmatch('#[0-9a-fA-F]{6}', text):
      raise ValueError(f'--colours {text!r} is no colour like #1f77b4.')
  return tuple(tuple(bytes.fromhex(text[1:])) for text in given)


def _names(text: str) -> tuple[str, ...]:
  return tuple(part.strip() for part in text.split(','))
