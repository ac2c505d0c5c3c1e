"""ONNX from an environment of its own; the real one is opt-in.

The last test converts for minutes: set RSFM_ONNX_ENV to the folder of an
environment, or to 'default' to make one, which needs a package index.
"""

import json
import os
import subprocess
import sys

import jax
from jax import export
import numpy as np
import pytest

from rsfm_jax.export import onnx
from rsfm_jax.export import onnx_environment as environment
from rsfm_jax.export import onnx_worker
from rsfm_jax.export import parity


def test_the_environment_is_named_by_its_pins(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  first = environment.default_folder()
  assert first.parent == tmp_path / 'rsfm_jax'
  monkeypatch.setattr(environment, 'PINS', ('jax2onnx==9',))
  assert environment.default_folder() != first


def test_it_is_made_once(monkeypatch, tmp_path):
  commands = []

  def run(command, **options):
    commands.append([str(word) for word in command])
    (tmp_path / 'env').mkdir(exist_ok=True)
    return subprocess.CompletedProcess(command, 0, '', '')

  monkeypatch.setattr(environment.subprocess, 'run', run)
  python = environment.ensure(tmp_path / 'env')
  assert python == tmp_path / 'env' / 'bin' / 'python'
  assert commands[0] == [sys.executable, '-m', 'venv', str(tmp_path / 'env')]
  assert commands[1][1:5] == ['-m', 'pip', 'install', '--quiet']
  assert tuple(commands[1][5:]) == environment.PINS
  assert environment.ensure(tmp_path / 'env') == python
  assert len(commands) == 2


def test_without_an_index_the_reason_is_told_and_nothing_is_ready(
  monkeypatch, tmp_path
):
  def run(command, **options):
    return subprocess.CompletedProcess(command, 1, '', 'x\nno index\n')

  monkeypatch.setattr(environment.subprocess, 'run', run)
  for _ in range(2):
    with pytest.raises(RuntimeError, match="said 'no index'.*--onnx_env"):
      environment.ensure(tmp_path / 'env')


def test_a_folder_of_something_else_is_left_alone(tmp_path):
  (tmp_path / 'thesis').mkdir()
  (tmp_path / 'thesis' / 'text').touch()
  with pytest.raises(ValueError, match='no environment of this command'):
    environment.ensure(tmp_path / 'thesis')
  assert (tmp_path / 'thesis' / 'text').exists()


# Stands in for the Python of the environment.
WORKER = """
import json, pathlib, sys
import numpy as np
folder = pathlib.Path(sys.argv[-1])
assert sys.argv[-2] == 'rsfm_jax.export.onnx_worker'
told = json.loads((folder / 'graph.json').read_text())
assert (folder / 'weights.safetensors').is_file()
(folder / 'model.onnx').write_bytes(told['sensor']['name'].encode())
for path in folder.glob('inputs_*.npz'):
  with np.load(path) as arrays:
    np.savez(folder / path.name.replace('in', 'out', 1), map=arrays['pixels'])
"""


def stand_in(folder, code):
  (folder / 'worker.py').write_text(code)
  python = folder / 'python'
  python.write_text(f'#!/bin/sh\nexec {sys.executable} {folder}/worker.py "$@"')
  python.chmod(0o755)
  return python


def test_a_worker_gets_graph_weights_and_inputs(make_graph, params, tmp_path):
  made = make_graph('opt')
  inputs = [parity.images(made, batch) for batch in (1, 2)]
  python = stand_in(tmp_path, WORKER)
  done = onnx.converted(made, params, inputs, python=python)
  assert done.data == b'opt'
  for arrays, out in zip(inputs, done.outputs, strict=True):
    np.testing.assert_array_equal(out['map'], arrays['pixels'])


def test_the_last_words_of_a_failed_worker_are_told(
  make_graph, params, tmp_path
):
  python = stand_in(tmp_path, 'raise NotImplementedError("no such primitive")')
  with pytest.raises(RuntimeError, match='opt could .* no such primitive'):
    onnx.converted(make_graph('opt'), params, [], python=python)


def test_what_is_converted_is_the_model_without_dead_code(make_graph, params):
  made = make_graph('opt')
  program, constants, arguments = onnx_worker.traced(made, params)
  names = {eqn.primitive.name for eqn in program.eqns}
  assert 'dot_general' in names
  # Nothing whose trip count or shape follows the routing.
  assert not names & {'while', 'sort', 'ragged_dot_general', 'platform_index'}
  with_decoder = {np.shape(x) for x in constants}
  used = {v for eqn in program.eqns for v in eqn.invars if hasattr(v, 'count')}
  kept = [x for v, x in zip(program.constvars, constants) if v in used]
  assert (16, 48) in with_decoder and (16, 48) not in map(np.shape, kept)
  images = parity.images(made, 2)
  run = lambda pixels: jax.core.eval_jaxpr(program, constants, pixels)
  # Its sizes are symbols: evaluated for numbers where it is exported.
  exported = export.export(jax.jit(run))(*arguments)
  got = exported.call(images['pixels'])
  (want,) = parity.reference(made, params, [images])
  for name, value in zip(sorted(want), got, strict=True):
    np.testing.assert_allclose(value, want[name], atol=1e-5)


@pytest.mark.slow
def test_onnxruntime_says_what_the_model_says(make_graph, params):
  folder = os.environ.get('RSFM_ONNX_ENV')
  if not folder:
    pytest.skip('RSFM_ONNX_ENV names no environment for ONNX')
  python = environment.ensure(None if folder == 'default' else folder)
  for sensor in ('opt', 'sar_l1'):
    made = make_graph(sensor)
    inputs = [parity.images(made, batch) for batch in (1, 2, 5)]
    done = onnx.converted(made, params, inputs, python=python)
    found = parity.errors(parity.reference(made, params, inputs), done.outputs)
    assert parity.worst(found) < parity.TOLERANCE, json.dumps(found)
