"""Maps a scene of any size with a fine-tuned model, or with an encoder.

Windows of a GeoTIFF pass the model and are blended into a Cloud Optimized
GeoTIFF on the scene's own grid: classes, changes, numbers, or embeddings, of
one sensor or, where the model fuses them, of several that see one ground.
Memory does not grow with the scene. Run it again to go on after a kill; the
bytes are those of a run that was never stopped.
"""

import argparse
import pathlib
from typing import Any

import numpy as np

from rsfm_jax.cli import predict_inputs
from rsfm_jax.cli import predict_layout
from rsfm_jax.cli import predictor as predictors
from rsfm_jax.core import memory
from rsfm_jax.core import progress
from rsfm_jax.data import cog
from rsfm_jax.evaluate import mapping

HELP = 'a scene of any size to a map: classes, changes, numbers, embeddings'
KINDS = (predict_layout.PREDICTION, 'probabilities', predictors.EMBEDDING)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('model', help='workdir of rsfm finetune; for embeddings any model')
  add('scene', nargs='?', help='GeoTIFF; of changes the earlier one')
  add('--scene', dest='scenes', action='append', default=[],
      type=predict_inputs.named, metavar='SENSOR=PATH',
      help='instead, one for each of several sensors of the model, on the '
      'same ground; pixels may be whole multiples of the finest (embeddings '
      'of SkySense V2)')  # fmt: skip
  add('--out', required=True, help='the map, a .tif')
  add('--after', help='the later scene, for a model of changes')
  add('--as', dest='kind', choices=KINDS, default=KINDS[0])
  add('--stage', help='of embeddings; default final, of several scenes fused')
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
  add(
    '--classes',
    type=_names,
    default=(),
    metavar='A,B',
    help="names; default: the run's",
  )
  add('--colours', type=_names, default=(), metavar='#RRGGBB,...')
  add('--overwrite', action='store_true', help='an --out that is there')


def run(args: argparse.Namespace) -> int:
  out = pathlib.Path(args.out)
  if out.suffix.lower() not in ('.tif', '.tiff'):
    raise ValueError(f'--out {out}: a map is a .tif.')
  if out.exists() and not args.overwrite:
    raise ValueError(f'--out {out} is there already; give --overwrite.')
  if args.batch_size < 1:
    raise ValueError(f'--batch_size {args.batch_size} must be at least 1.')
  model = predict_inputs.model(args)
  opened = predict_inputs.opened(args, model)
  try:
    plan = predict_layout.plan(args, model, opened.shape)
    layout = predict_layout.layout(args, model, opened.georeference, plan)
    print('\n'.join(_map(args, model, opened, plan, layout)))
  finally:
    opened.close()
  return 0


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
  kept = ('kind', 'input', 'bands', 'missing_bands', 'nodata')
  kept += ('processing_baseline', 'crs', 'batch_size', 'classes', 'colours')
  job: dict[str, Any] = {
    name: list(v) if isinstance(v := getattr(args, name), tuple) else v
    for name in kept
  }
  job |= {'model': model.content_hash, 'stage': model.stage}
  for name in ('height', 'width', 'size', 'stride', 'halo', 'cell', 'panel'):
    job[name] = getattr(plan, name)
  scenes = {'scene': args.scene, 'after': args.after} | dict(args.scenes)
  for name, path in scenes.items():
    job[name] = path
    if path and pathlib.Path(path).is_file():
      found = pathlib.Path(path).stat()
      job[name] = [path, found.st_size, found.st_mtime_ns]
  return job


def _names(text: str) -> tuple[str, ...]:
  return tuple(part.strip() for part in text.split(','))
