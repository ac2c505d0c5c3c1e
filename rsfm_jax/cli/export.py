"""Writes an encoder in portable formats, checked against the model.

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

from rsfm_jax.cli import models
from rsfm_jax.core import choices
from rsfm_jax.core import files
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.export import artefacts
from rsfm_jax.export import folder as folders
from rsfm_jax.export import graph as graphs
from rsfm_jax.export import hub
from rsfm_jax.export import onnx
from rsfm_jax.export import onnx_environment
from rsfm_jax.export import parity
from rsfm_jax.export import stablehlo
from rsfm_jax.models import encoder
from rsfm_jax.sensors import catalogue

HELP = 'safetensors, StableHLO and ONNX with the preprocessing inside'
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
  opened = models.open_model(args.checkpoint, which=args.which)
  named = made(opened, args)
  python = None
  if 'onnx' in args.to:
    python = onnx_environment.ensure(args.onnx_env)
  with files.whole_folder(out) as folder:
    found = write(folder, opened, named, args, python)
    parity.check(found, args.tolerance)
    _describe(folder, out.name, opened, found, args)
  _print(out, found)
  if args.push:
    print(hub.push(out, args.push))
  return 0


def made(
  opened: models.Opened, args: argparse.Namespace
) -> dict[str, graphs.Graph]:
  """The graph of each sensor.

  Raises:
    ValueError: a sensor, band, input or stage that is not there, or a contract
      that does not fit the weights.
  """
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
    if size is None:
      size = encoder.image_size(spec, name)
    found[name] = graphs.Graph(
      spec=spec,
      sensor=opened.sensors[name],
      pixels=pixels,
      statistics=opened.statistics.get(name),
      size=size,
      stages=args.stages,
      processing_baseline=told['baseline'].get(name),
    )
  return found


def write(
  folder: pathlib.Path,
  opened: models.Opened,
  named: Mapping[str, graphs.Graph],
  args: argparse.Namespace,
  python: pathlib.Path | None,
) -> dict[str, dict[str, dict[str, float]]]:
  """Writes all files; {file: errors by batch size and output}."""
  checked = {}
  for name, graph in named.items():
    inputs = [parity.images(graph, batch) for batch in args.batches]
    want = parity.reference(graph, opened.params, inputs)
    checked[name] = Checked(inputs, want)
  found = {}
  if 'safetensors' in args.to:
    found |= _safetensors(folder, opened, named, checked)
  for name, graph in named.items():
    about = {
      'outputs': graph.outputs(opened.params),
      'content_hash': opened.content_hash,
    }
    inputs, want = checked[name]
    for kind in (k for k in artefacts.FORMATS if k in args.to):
      data, got = _GRAPHS[kind](graph, opened.params, inputs, python)
      path = artefacts.write(
        folder, f'encoder_{name}', data, graph, kind=kind, **about
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


def _safetensors(folder, opened, named, checked):
  """The model folder; its errors are of what was read back."""
  folders.save(
    folder,
    opened.params,
    spec=opened.model.spec.to_json(),
    contract=opened.contract,
    record=_record(opened),
    beside='nothing',
  )
  artefacts.write_safetensors_loader(folder)
  again = models.open_model(folder)
  return {
    f'{folders.WEIGHTS} ({name})': parity.errors(
      checked[name].want,
      parity.reference(graph, again.params, checked[name].inputs),
    )
    for name, graph in named.items()
  }


def _describe(folder, title, opened, found, args) -> None:
  """parity.json and README.md."""
  files.write_json(
    folder / 'parity.json',
    {
      'reference': f'the jitted model on {jax.default_backend()}',
      'what': 'largest absolute difference by file, batch size and output',
      'tolerance': args.tolerance,
      'errors': found,
    },
  )
  card = hub.card(
    title=title,
    spec=opened.model.spec.to_json(),
    params=opened.params,
    sensors=opened.sensors,
    names=[path.name for path in folder.iterdir()],
    origin=hub.Origin(
      opened.content_hash, _record(opened).get('parent_hash', ''), opened.step
    ),
    licence=args.licence,
    metrics=_metrics(opened),
  )
  files.write_text(folder / 'README.md', card)


def _record(opened: models.Opened) -> dict[str, Any]:
  """How the weights were made: that of their folder, or the run."""
  at = pathlib.Path(opened.path)
  if opened.step is None and folders.is_model(at):
    return files.read_json(at / 'record.json')
  return {'run': opened.path, 'step': opened.step}


def _metrics(opened: models.Opened) -> str:
  """Rows beside the weights that are of them, and their baselines."""
  path = pathlib.Path(opened.path) / 'rows.jsonl'
  if not path.is_file():
    return ''
  of = ('', opened.content_hash)
  found = [row for row in rows_lib.read(path) if row.checkpoint in of]
  own = any(row.checkpoint for row in found)
  return rows_lib.markdown(found) if own else ''


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
