"""`rsfm data text-embeddings`: vectors of class names, one small table."""

import argparse

from rsfm_jax.data import store as stores
from rsfm_jax.data.synthetic import writing
from rsfm_jax.models import clip_text
from rsfm_jax.sensors import class_table

HELP = 'make the table of class names and their text vectors'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--out', required=True, metavar='FOLDER', help='where the table goes')
  names = parser.add_mutually_exclusive_group()
  names.add_argument(
    '--classes',
    metavar='A,B,C',
    help='names in the order of the codes of the mask',
  )
  names.add_argument(
    '--classes-of',
    metavar='STORE',
    help='the land-cover classes of a store of synthetic landscapes',
  )
  origin = parser.add_mutually_exclusive_group(required=True)
  origin.add_argument(
    '--clip',
    metavar='MODEL',
    help='encode them with the text tower of a CLIP model: a folder, or a '
    'name on the hub, e.g. openai/clip-vit-large-patch14; needs '
    'pip install "rsfm-jax[text]"',
  )
  origin.add_argument(
    '--import',
    dest='source',
    metavar='FILE',
    help='take them from a .npz, .json or .safetensors of names and vectors; '
    'without --classes all of its names',
  )
  origin.add_argument(
    '--fallback',
    type=int,
    nargs='?',
    const=512,
    metavar='DIM',
    help='vectors without meaning, for tests and demonstrations (512 long)',
  )
  add(
    '--template',
    default='{}',
    help='text around a name, for --clip; default: the name alone',
  )


def table_of(args: argparse.Namespace) -> class_table.ClassTable:
  """What the arguments ask for.

  Raises:
    ValueError: no names, a name that the imported file lacks, or a store
      whose classes are not known.
    RuntimeError: CLIP cannot be had.
  """
  names = _names(args)
  if args.source:
    table = class_table.read_vectors(args.source)
    return table.select(names) if names else table
  if not names:
    raise ValueError('name the classes: --classes A,B,C or --classes-of STORE.')
  if args.fallback is not None:
    return class_table.fallback(names, args.fallback)
  words = [name.replace('_', ' ') for name in names]
  vectors = clip_text.encode(args.clip, words, template=args.template)
  origin = f'CLIP text tower of {args.clip}, template {args.template!r}'
  return class_table.ClassTable.of(names, vectors, origin=origin)


def run(args: argparse.Namespace) -> int:
  """Writes the table and prints what it holds.

  Raises:
    ValueError: see `table_of`.
  """
  table = table_of(args)
  class_table.save(args.out, table)
  print(f'{args.out}: {len(table)} classes, vectors of {table.dim}')
  print(f'  {", ".join(table.names)}')
  print(f'  origin: {table.origin}')
  return 0


def _names(args: argparse.Namespace) -> list[str]:
  if args.classes_of is None:
    return [n.strip() for n in (args.classes or '').split(',') if n.strip()]
  names = writing.landcover_of(stores.Store(args.classes_of))
  if names is None:
    raise ValueError(
      f'--classes-of {args.classes_of}: only synthetic stores say what the '
      'codes of their land cover mean; give --classes in the order of them.'
    )
  return list(names)
