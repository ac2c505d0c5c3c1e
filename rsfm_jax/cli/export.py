"""Writes an encoder in portable formats, checked against the model.

Of a fine-tuned model also its head: the graphs then give its predictions too.
The graphs take pixels as a sensor stores them; units, normalisation, bands by
name and invalid pixels are inside. Every file has its contract beside it and a
loader of ten lines that needs nothing of this package. ONNX is made in an
environment of its own, which the first call creates.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from rsfm_jax.cli import export_card
from rsfm_jax.cli import models
from rsfm_jax.cli import tuned
from rsfm_jax.core import choices
from rsfm_jax.core import files
from rsfm_jax.export import artefacts
from rsfm_jax.export import folder as folders
from rsfm_jax.export import graph as graphs
from rsfm_jax.export import heads
from rsfm_jax.export import hub
from rsfm_jax.export import onnx
from rsfm_jax.export import onnx_environment
from rsfm_jax.export import parity
from rsfm_jax.export import stablehlo
from rsfm_jax.models import encoder
from rsfm_jax.sensors import catalogue

HELP = 'safetensors, StableHLO and ONNX with the preprocessing inside'
HEAD = 'head.safetensors'
TARGETS = ('safetensors', *artefacts.FORMATS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--checkpoint', required=True, help='a workdir or a model folder')
  add('--out', required=True, help='folder to write; must not be there')
  add(
    '--to',
    type=_names,
    default=TARGETS,
    metavar='A,B',
    help=f'of {", ".join(TARGETS)}; default all',
  )
  add('--which', choices=('auto', 'params', 'ema'), default='auto')
  add(
    '--head',
    choices=('auto', 'none'),
    default='auto',
    help='of a fine-tuned workdir: auto exports the best state with its head, '
    'none the encoder of the newest checkpoint',
  )
  add('--sensors', type=_names, metavar='A,B', help='graphs of; default all')
  add(
    '--input',
    action='append',
    default=[],
    metavar='SENSOR=NAME',
    help='pixels come as this sensor of the catalogue stores them',
  )
  add(
    '--bands',
    action='append',
    default=[],
    metavar='SENSOR=A,B',
    help='input bands by name, in this order; default all of the input',
  )
  add(
    '--baseline',
    action='append',
    default=[],
    metavar='SENSOR=NN.NN',
    help='processing baseline of Sentinel-2 DN',
  )
  add('--size', type=int, help='pixels on a side; default that of the model')
  add('--stages', type=_names, default=(), help='further maps to give out')
  add(
    '--batches',
    type=lambda t: tuple(int(n) for n in t.split(',')),
    default=parity.BATCHES,
    metavar='1,2,5',
    help='batch sizes of the parity report',
  )
  add('--tolerance', type=float, default=parity.TOLERANCE)
  add('--onnx_env', help='the environment of ONNX; default in the cache')
  add('--licence', default='unknown', help='of the weights, for the card')
  add('--push', metavar='OWNER/NAME', help='upload to the Hugging Face hub')


class Source(NamedTuple):
  """What is exported.

  Attributes:
    opened: the encoder.
    params: of the graphs, with those of a head.
    head: what is known of it, or None.
  """

  opened: models.Opened
  params: Any
  head: tuned.About | None


class Checked(NamedTuple):
  """What the model says of some inputs, for the files to say too."""

  inputs: list[parity.Arrays]
  want: list[parity.Arrays]


def run(args: argparse.Namespace) -> int:
  for target in args.to:
    choices.check(target, TARGETS, key='--to')
  if not args.to or min(args.batches) < 1:
    raise ValueError(f'--to {args.to} and --batches {args.batches}: name some.')
  out = pathlib.Path(args.out)
  if out.exists():
    raise ValueError(f'--out {out} is there already; choose another.')
  if args.push:
    hub.library()  # Before minutes of work.
  source = _source(args)
  named = made(source, args)
  python = None
  if 'onnx' in args.to:
    python = onnx_environment.ensure(args.onnx_env)
  with files.whole_folder(out) as folder:
    found = write(folder, source, named, args, python)
    parity.check(found, args.tolerance)
    export_card.write(
      folder,
      out.name,
      source.opened,
      found,
      tolerance=args.tolerance,
      licence=args.licence,
    )
  _print(out, found)
  if args.push:
    print(hub.push(out, args.push))
  return 0


def _source(args: argparse.Namespace) -> Source:
  if args.head == 'auto' and tuned.is_tuned(args.checkpoint):
    if args.which != 'auto':
      raise ValueError(
        f'--which {args.which} is of the checkpoints of a run; the head of '
        f'{args.checkpoint} leaves with its best state: give --head none.'
      )
    found = tuned.open_tuned(args.checkpoint, instead='give --head none')
    return Source(found.opened, found.params, found.about)
  opened = models.open_model(args.checkpoint, which=args.which)
  return Source(opened, opened.params, None)


def made(source: Source, args: argparse.Namespace) -> dict[str, graphs.Graph]:
  """The graph of each sensor.

  Raises:
    ValueError: a sensor, band, input or stage that is not there, or a contract
      that does not fit the weights.
  """
  opened, head = source.opened, source.head
  for name, sensor in opened.sensors.items():
    graphs.check_contract(
      opened.model.spec, sensor, opened.statistics.get(name)
    )
  sensors = args.sensors or tuple(opened.sensors)
  for sensor in sensors:
    choices.check(sensor, opened.sensors, key='--sensors')
  told = {
    key: _by_sensor(getattr(args, key), sensors, key=f'--{key}')
    for key in ('input', 'bands', 'baseline')
  }
  # What computes in bfloat16 on one platform is not what another one gives.
  spec = dataclasses.replace(opened.model.spec, dtype='float32')
  found = {}
  for name in sensors:
    pixels = opened.sensors[name]
    if name in told['input']:
      pixels = catalogue.get(told['input'][name])
    if name in told['bands']:
      pixels = pixels.select(_names(told['bands'][name]))
    size = args.size
    if size is None and head is not None:
      size = head.data['window']['size']
    elif size is None:
      size = encoder.image_size(spec, name)
    found[name] = graphs.Graph(
      spec=spec,
      sensor=opened.sensors[name],
      pixels=pixels,
      statistics=opened.statistics.get(name),
      size=size,
      stages=args.stages,
      processing_baseline=told['baseline'].get(name),
      task=None if head is None else head.task,
      classes=() if head is None else head.classes,
    )
  return found


def write(
  folder: pathlib.Path,
  source: Source,
  named: Mapping[str, graphs.Graph],
  args: argparse.Namespace,
  python: pathlib.Path | None,
) -> dict[str, dict[str, dict[str, float]]]:
  """Writes all files; {file: errors by batch size and output}."""
  checked = {}
  for name, graph in named.items():
    inputs = [parity.images(graph, batch) for batch in args.batches]
    want = parity.reference(graph, source.params, inputs)
    checked[name] = Checked(inputs, want)
  found = {}
  if 'safetensors' in args.to:
    found |= _safetensors(folder, source, named, checked)
  for name, graph in named.items():
    about = {
      'outputs': graph.outputs(source.params),
      'content_hash': source.opened.content_hash,
    }
    inputs, want = checked[name]
    for kind in (k for k in artefacts.FORMATS if k in args.to):
      data, got = _GRAPHS[kind](graph, source.params, inputs, python)
      what = graph.task.kind if graph.task else 'encoder'
      path = artefacts.write(
        folder, f'{what}_{name}', data, graph, kind=kind, **about
      )
      found[path.name] = parity.errors(want, got)
  return found


def _stablehlo(graph, params, inputs, python):
  del python
  data = stablehlo.serialised(graph, params)
  return data, _answers(stablehlo.load(data), inputs)


def _onnx(graph, params, inputs, python):
  done = onnx.converted(graph, params, inputs, python=python)
  return done.data, done.outputs


_GRAPHS = {'stablehlo': _stablehlo, 'onnx': _onnx}


def _answers(
  call: Callable[..., Mapping[str, jax.Array]],
  inputs: Sequence[parity.Arrays],
) -> list[parity.Arrays]:
  return [
    {n: np.asarray(x) for n, x in call(*arrays.values()).items()}
    for arrays in inputs
  ]


def _safetensors(folder, source, named, checked):
  """The model folder, and the head's file; errors are of what was read back."""
  opened = source.opened
  folders.save(
    folder,
    opened.params,
    spec=opened.model.spec.to_json(),
    contract=opened.contract,
    record=export_card.record(opened),
    beside='nothing',
  )
  artefacts.write_safetensors_loader(folder)
  again = models.open_model(folder).params
  if source.head is not None:
    heads.save(folder / HEAD, source.params, next(iter(named.values())))
    again |= heads.load(folder / HEAD)
  return {
    f'{folders.WEIGHTS} ({name})': parity.errors(
      checked[name].want,
      parity.reference(graph, again, checked[name].inputs),
    )
    for name, graph in named.items()
  }


def _print(out: pathlib.Path, found) -> None:
  print(f'{out}: largest differences from the model, by batch size')
  for name, rows in found.items():
    words = ', '.join(
      f'{size}: {max(row.values()):.2g}' for size, row in rows.items()
    )
    print(f'  {name:32s} {words}')


def _by_sensor(
  told: Iterable[str], sensors: Sequence[str], *, key: str
) -> dict[str, str]:
  """'SENSOR=VALUE' options.

  Raises:
    ValueError: no '=', or a sensor that is not exported.
  """
  found: dict[str, str] = {}
  for text in told:
    name, equals, value = text.partition('=')
    if not equals or not value:
      raise ValueError(f'{key} {text!r} is not like SENSOR=VALUE.')
    found[choices.check(name, sensors, key=key)] = value
  return found


def _names(text: str) -> tuple[str, ...]:
  return tuple(part.strip() for part in text.split(',') if part.strip())
