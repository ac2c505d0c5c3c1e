"""What a map is to be: its windows, bands, names and colours."""

import argparse
import re

from rsfm_jax.cli import predictor as predictors
from rsfm_jax.data import cog
from rsfm_jax.data import mosaic
from rsfm_jax.data import raster
from rsfm_jax.plots import display
from rsfm_jax.tasks import losses

PREDICTION = 'prediction'  # What `--as` calls classes and numbers.
_PANEL = 1024  # Pixels of a panel; memory and seams that are computed twice.


def plan(
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


def layout(
  args: argparse.Namespace,
  model: predictors.Predictor,
  where: raster.Georeference,
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
  names = args.classes or model.classes
  names = names or tuple(str(i) for i in range(model.outputs))
  tags = {'RSFM_MODEL': model.content_hash, 'RSFM_KIND': model.kind}
  if classes:
    tags['RSFM_CLASSES'] = ','.join(names)
  shown = classes and args.kind == PREDICTION
  bands, colours = (model.kind,), ()
  if shown:
    colours = _colours(args.colours, model.outputs)
  elif model.kind == predictors.EMBEDDING:
    bands = tuple(f'{model.stage}_{i}' for i in range(model.outputs))
  elif classes:
    bands = names
  return cog.Layout(
    height=plan.height,
    width=plan.width,
    bands=bands,
    dtype='uint8' if shown else 'float32',
    nodata=losses.UNLABELLED if shown else float('nan'),
    georeference=where.coarser(plan.cell),
    colours=colours,
    tags=tuple(tags.items()),
  )


def _colours(
  given: tuple[str, ...], count: int
) -> tuple[tuple[int, int, int], ...]:
  """Of the classes; by default hues that differ.

  Raises:
    ValueError: no colour like #1f77b4.
  """
  if not given:
    return display.class_colours(count)
  for text in given:
    if not re.fullmatch('#[0-9a-fA-F]{6}', text):
      raise ValueError(f'--colours {text!r} is no colour like #1f77b4.')
  return tuple(tuple(bytes.fromhex(text[1:])) for text in given)
