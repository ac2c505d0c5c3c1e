"""inspect, prune, evaluate, assess and report on a small trained run."""

import json
import pathlib

import numpy as np
import pytest

from rsfm_jax.cli import main
from rsfm_jax.cli import models
from rsfm_jax.core import trees
from rsfm_jax.evaluate import rows as rows_lib

ROOT = pathlib.Path(__file__).parents[2]
GIANT = str(ROOT / 'configs' / 'pretrain' / 'ringmoe_giant.py')


def test_inspect_counts_the_published_giant_exactly(capsys):
  assert main.main(['inspect', '--config', GIANT, '--json']) == 0
  found = json.loads(capsys.readouterr().out)
  assert found['parameters']['encoder'] == 14_746_061_988
  assert found['active_parameters'] == {
    'opt': 2_429_668_836,
    'sar_l1': 2_429_704_676,
    'sar_l2': 2_429_668_836,
    'ms': 2_429_676_004,
  }
  assert abs(found['flops_per_image']['opt'] / 632e9 - 1) < 0.01
  assert found['bytes']['parameters'] == 4 * found['parameters']['total']


def test_inspect_of_a_checkpoint_names_its_bands(trained, capsys):
  assert main.main(['inspect', '--checkpoint', str(trained)]) == 0
  out = capsys.readouterr().out
  assert 'red, green, blue' in out
  assert 'HH_I' in out


def test_extracting_a_sensor_keeps_its_outputs_to_the_bit(trained, tmp_path):
  out = tmp_path / 'opt'
  assert (
    main.main(
      [
        'prune',
        '--checkpoint',
        str(trained),
        '--out',
        str(out),
        '--sensors',
        'opt',
      ]
    )
    == 0
  )
  whole, small = models.open_model(trained), models.open_model(out)
  image = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
  image = image.astype(np.float32)
  a = whole.model.apply(whole.params, {'opt': image})
  b = small.model.apply(small.params, {'opt': image})
  np.testing.assert_array_equal(a.features['opt'], b.features['opt'])
  assert set(small.sensors) == {'opt'}
  record = json.loads((out / 'record.json').read_text())
  assert record['parent_hash'] == whole.content_hash


def test_dense_integration_leaves_one_ffn_per_block(trained, stores, tmp_path):
  out = tmp_path / 'dense'
  assert (
    main.main(
      [
        'prune',
        '--checkpoint',
        str(trained),
        '--out',
        str(out),
        '--sensors',
        'opt',
        '--keep',
        '0.5',
        '--dense',
        'svd',
        '--calibration',
        str(stores / 'scenes'),
        '--images',
        '16',
      ]
    )
    == 0
  )
  small = models.open_model(out)
  assert (small.model.spec.specialised, small.model.spec.collaborative) == (
    0,
    0,
  )
  assert not [n for n in trees.flatten(small.params) if 'router' in n]


def test_weights_of_two_bytes_train_prune_and_evaluate(
  pretrain, stores, tmp_path
):
  scenes = str(stores / 'scenes')
  run, small = str(tmp_path / 'run'), str(tmp_path / 'small')
  rows = str(tmp_path / 'rows.jsonl')
  frugal = ('--config.optim.kind=adafactor', '--config.optim.weights=bfloat16')
  short = ('--config.train.total_steps=2', '--config.model.engine=dropless')
  assert pretrain(run, *frugal, *short) == 0
  words = ['prune', '--checkpoint', run, '--out', small, '--dense', 'svd']
  words += ['--calibration', scenes, '--images', '16', '--sensors', 'opt']
  assert main.main(words) == 0
  words = ['evaluate', '--store', scenes, '--protocols', 'galileo_knn5']
  words += ['--checkpoint', run, '--checkpoint', small, '--out', rows]
  assert main.main(words) == 0
  for folder in (run, small):
    params = trees.flatten(models.open_model(folder).params)
    assert params['decoder/opt/kernel'].dtype == 'bfloat16'


def test_pruning_does_not_overwrite_a_model(trained, tmp_path, capsys):
  words = [
    'prune',
    '--checkpoint',
    str(trained),
    '--out',
    str(tmp_path / 'm'),
    '--sensors',
    'opt',
  ]
  assert main.main(words) == 0
  assert main.main(words) == 2
  assert 'holds a model already' in capsys.readouterr().err


def test_pruning_without_calibration_says_so(trained, tmp_path, capsys):
  assert (
    main.main(
      [
        'prune',
        '--checkpoint',
        str(trained),
        '--out',
        str(tmp_path / 'm'),
        '--keep',
        '0.5',
      ]
    )
    == 2
  )
  assert '--calibration' in capsys.readouterr().err


def test_an_unknown_sensor_is_named_with_what_there_is(
  trained, tmp_path, capsys
):
  assert (
    main.main(
      [
        'prune',
        '--checkpoint',
        str(trained),
        '--out',
        str(tmp_path / 'm'),
        '--sensors',
        'optt',
      ]
    )
    == 2
  )
  assert 'Did you mean "opt"?' in capsys.readouterr().err


def test_evaluate_writes_a_row_per_model_and_protocol(
  trained, stores, tmp_path
):
  out = tmp_path / 'rows.jsonl'
  assert (
    main.main(
      [
        'evaluate',
        '--store',
        str(stores / 'scenes'),
        '--checkpoint',
        f'mine={trained}',
        '--protocols',
        'galileo_knn5',
        '--out',
        str(out),
      ]
    )
    == 0
  )
  rows = rows_lib.read(out)
  assert [row.name for row in rows] == [
    'raw statistics',
    'raw statistics gradients',
    'random init',
    'mine',
  ]
  assert all(row.low <= row.value <= row.high for row in rows)
  assert rows[-1].checkpoint == models.open_model(trained).content_hash


@pytest.mark.slow
def test_assess_prunes_probes_and_reports(trained, stores, tmp_path):
  out = tmp_path / 'out'
  assert (
    main.main(
      [
        'assess',
        '--workdir',
        str(trained),
        '--store',
        str(stores / 'scenes'),
        '--protocols',
        'galileo_knn5',
        '--out',
        str(out),
        '--pictures',
        f'sar_l1={stores / "scenes"}',
      ]
    )
    == 0
  )
  summary = json.loads((out / 'summary.json').read_text())
  assert {'rows', 'seconds', 'peak_bytes', 'verdict'} <= set(summary)
  names = {row['name'] for row in summary['rows']}
  assert {'random init', 'pre-trained', 'pruned: dense SVD'} <= names
  page = (out / 'report.html').read_text()
  assert 'http://' not in page.replace('http://www.w3.org', '')
  assert (trained / 'pruned' / 'opt_extract' / 'contract.json').is_file()
