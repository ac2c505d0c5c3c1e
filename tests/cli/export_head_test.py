"""`rsfm export` of a fine-tuned workdir: the head goes along, or stays."""

import json

import jax
import numpy as np
import pytest

from rsfm_jax.cli import main
from rsfm_jax.export import heads
from rsfm_jax.export import parity
from rsfm_jax.export import stablehlo
from tests.cli import predict_test as made

parameters = made.parameters
tuned = made.tuned


def export(source, out, *words):
  words = ['--checkpoint', str(source), '--out', str(out), *words]
  return main.main(['export', *words])


def test_predictions_leave_with_the_features(tuned, tmp_path):
  pytest.importorskip('flatbuffers')
  folder, state = tuned('segmentation')
  out = tmp_path / 'out'
  words = ['--to', 'safetensors,stablehlo', '--batches', '2']
  assert export(folder, out, *words) == 0
  path = out / f'segmentation_{made.SENSOR}.stablehlo'
  told = json.loads((out / f'{path.name}.json').read_text())
  assert told['prediction']['classes'] == list(made.CLASS_NAMES)
  assert 'probability of each class by pixel' in told['prediction']['is']
  found = json.loads((out / 'parity.json').read_text())['errors']
  rows = found[f'model.safetensors ({made.SENSOR})']
  assert set(rows['2']) == {'embedding', 'map', heads.PREDICTION}
  assert parity.worst(rows) == 0
  assert 'head.safetensors' in (out / 'README.md').read_text()
  # What fine-tuning itself says of the same pixels.
  pixels = made.pixels(32, 32).astype(np.float32)[None]
  got = stablehlo.load(path.read_bytes())(pixels)[heads.PREDICTION]
  mean = np.array(made.STATISTICS.mean)
  std = np.array(made.STATISTICS.std)
  image = (pixels - mean) / std
  want = jax.jit(made.objective('segmentation', (32, 32)).averaged)(
    state['params'], state['extra'], {made.SENSOR: {'image': image}}
  )
  np.testing.assert_allclose(got, want, atol=parity.TOLERANCE)


@pytest.mark.parametrize(
  'kind, words, message',
  [
    ('change', (), 'task.kind=change'),
    ('segmentation', ('--which', 'ema'), '--which ema'),
  ],
)
def test_what_cannot_go_along_is_named(
  tuned, tmp_path, capsys, kind, words, message
):
  folder, _ = tuned(kind)
  assert export(folder, tmp_path / 'out', '--to', 'safetensors', *words) == 2
  said = capsys.readouterr().err
  assert message in said and '--head none' in said
  assert not (tmp_path / 'out').exists()
