"""inspect, prune, evaluate, assess and report on a small trained run."""

import json
import pathlib
import shutil

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


def prune(checkpoint, out, *words):
  """Exit code of `rsfm prune`."""
  named = ['--checkpoint', str(checkpoint), '--out', str(out)]
  return main.main(['prune', *named, *words])


def test_extracting_a_sensor_keeps_its_outputs_to_the_bit(trained, tmp_path):
  out = tmp_path / 'opt'
  assert prune(trained, out, '--sensors', 'opt') == 0
  whole, small = models.open_model(trained), models.open_model(out)
  image = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
  image = image.astype(np.float32)
  a = whole.model.apply(whole.params, {'opt': image})
  b = small.model.apply(small.params, {'opt': image})
  np.testing.assert_array_equal(a.features['opt'], b.features['opt'])
  assert set(small.sensors) == {'opt'}
  record = json.loads((out / 'record.json').read_text())
  assert record['parent_hash'] == whole.content_hash


def test_keeping_everything_is_the_same_model(trained, tmp_path):
  """Held in memory or read by parts, from a run or from a model folder."""
  first, second = tmp_path / 'whole', tmp_path / 'parts'
  assert prune(trained, first) == 0
  assert prune(trained, second, '--stream') == 0
  assert prune(first, tmp_path / 'again', '--stream') == 0
  names = ('whole', 'parts', 'again')
  hashes = {models.open_model(tmp_path / n).content_hash for n in names}
  assert hashes == {models.open_model(trained).content_hash}
  assert not (second / 'checkpoints').exists()


def test_usage_can_be_measured_first_and_used_by_parts(
  trained, stores, tmp_path
):
  usage, scenes = str(tmp_path / 'usage.json'), str(stores / 'scenes')
  words = ['prune', '--checkpoint', str(trained), '--usage', usage]
  assert main.main([*words, '--calibration', scenes, '--images', '16']) == 0
  cut = ['--sensors', 'opt,ms', '--keep', 'top:1', '--usage', usage]
  assert prune(trained, tmp_path / 'whole', *cut) == 0
  assert prune(trained, tmp_path / 'parts', *cut, '--stream') == 0
  whole, parts = (
    models.open_model(tmp_path / name) for name in ('whole', 'parts')
  )
  assert whole.content_hash == parts.content_hash
  assert whole.model.spec == parts.model.spec
  record = json.loads((tmp_path / 'parts' / 'record.json').read_text())
  assert record['steps'][0]['usage'] == json.loads(
    (tmp_path / 'usage.json').read_text()
  )
  assert record['steps'][1]['rule'] == 'top:1'


def test_dense_integration_leaves_one_ffn_per_block(trained, stores, tmp_path):
  out = tmp_path / 'dense'
  words = ['--sensors', 'opt', '--keep', 'pooled:1', '--dense', 'svd']
  words += ['--calibration', str(stores / 'scenes'), '--images', '16']
  assert prune(trained, out, *words) == 0
  spec = models.open_model(out).model.spec
  assert (spec.specialised, spec.collaborative) == (0, 0)
  flat = trees.flatten(models.open_model(out).params)
  assert not [n for n in flat if 'router' in n]


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


def test_recovery_comes_closer_to_the_unpruned_model(trained, stores, tmp_path):
  words = ['--sensors', 'opt', '--keep', 'random:1', '--fold', 'none']
  words += ['--calibration', str(stores / 'scenes'), '--images', '16']
  assert prune(trained, tmp_path / 'm', *words, '--recover', '8') == 0
  record = json.loads((tmp_path / 'm' / 'record.json').read_text())
  last = record['steps'][-1]
  assert last['operation'] == 'recover'
  assert last['last_loss'] < 0.9 * last['first_loss']


def test_pruning_does_not_overwrite_a_model(trained, tmp_path, capsys):
  assert prune(trained, tmp_path / 'm', '--sensors', 'opt') == 0
  assert prune(trained, tmp_path / 'm', '--sensors', 'opt') == 2
  assert 'holds a model already' in capsys.readouterr().err


@pytest.fixture(scope='module')
def one_sensor(trained, tmp_path_factory):
  """A model of four sensors whose contract knows one."""
  out = tmp_path_factory.mktemp('models') / 'm'
  assert prune(trained, out) == 0
  path = out / 'contract.json'
  held = json.loads(path.read_text())
  for part in held.values():
    for sensor in ('sar_l1', 'sar_l2', 'ms'):
      part.pop(sensor, None)
  path.write_text(json.dumps(held))
  return out


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['--sensors', 'optt'], 'Did you mean "opt"?'),
    (['--keep', 'pooled:1'], '--calibration'),
    (['--keep', 'best:1'], "--keep='best'"),
    (['--keep', 'STEM/keep.json'], 'in 0..1'),
    (['--usage', 'STEM/keep.json', '--keep', 'top:1'], 'calibration record'),
    (['--stream', '--calibration', 'SCENES'], '--usage FILE'),
    (['--calibration', 'SCENES', '--images', '0'], '--images 0'),
    (['--calibration', 'SCENES', '--split', 'nowhere'], 'nowhere'),
    (['--sweep', '1'], '--sweep needs --calibration'),
  ],
)
def test_bad_input_is_named_and_nothing_is_written(
  trained, stores, tmp_path, capsys, words, message
):
  (tmp_path / 'keep.json').write_text('{"collaborative/0": [5]}')
  swap = {'STEM': str(tmp_path), 'SCENES': str(stores / 'scenes')}
  for old, new in swap.items():
    words = [word.replace(old, new) for word in words]
  assert prune(trained, tmp_path / 'm', *words) == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'm').exists()


def test_a_sensor_that_was_never_trained_is_named(one_sensor, tmp_path, capsys):
  assert prune(one_sensor, tmp_path / 'm', '--sensors', 'ms') == 2
  assert 'never pre-trained on it' in capsys.readouterr().err
  assert not (tmp_path / 'm').exists()


def test_a_calibration_store_of_other_sensors_is_an_error(
  one_sensor, stores, tmp_path, capsys
):
  other = str(tmp_path / 'ms')
  words = ['data', 'synthesize', '--samples', '24', '--size', '32']
  words += ['--sensors', 'ms', '--workers', '0', '--out', other]
  assert main.main(words) == 0
  words = ['--keep', 'top:1', '--calibration', other]
  assert prune(one_sensor, tmp_path / 'm', *words) == 2
  assert 'holds none of the sensors' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda s: s.update(radar=s['opt']), "knows 'radar'"),
    (lambda s: s['opt']['bands'].pop(), 'gives opt 2 bands'),
  ],
)
def test_a_contract_that_does_not_match_the_weights_is_an_error(
  one_sensor, tmp_path, capsys, change, message
):
  out = tmp_path / 'm'
  shutil.copytree(one_sensor, out)
  held = json.loads((out / 'contract.json').read_text())
  change(held['sensors'])
  (out / 'contract.json').write_text(json.dumps(held))
  for words in ([], ['--stream']):
    assert prune(out, tmp_path / 'less', *words) == 2
    assert message in capsys.readouterr().err
  assert not (tmp_path / 'less').exists()


def test_a_sweep_writes_table_figures_and_points(trained, stores, tmp_path):
  out = tmp_path / 'sweep'
  words = ['--sweep', '1', '--sensors', 'opt', '--protocols', 'galileo_knn5']
  words += ['--calibration', str(stores / 'scenes'), '--images', '16']
  assert prune(trained, out, *words) == 0
  found = json.loads((out / 'sweep.json').read_text())
  rules = [(p['rule'], p['experts']) for p in found['points']]
  assert rules == [('all', 2), ('use', 1), ('random', 1), ('least used', 1)]
  sizes = [p['parameters'] for p in found['points']]
  assert sizes[0] > sizes[1] == sizes[2] == sizes[3]
  for point in found['points']:
    assert point['low'] <= point['accuracy'] <= point['high']
    assert point['images_per_second'] > 0
    assert point['flops'] > 0
  maps = found['maps']
  after, before = np.array(maps['after']['1']), np.array(maps['before'])
  np.testing.assert_allclose(before.sum(-1), 1, rtol=1e-6)
  assert set(np.unique(after)) == {0.0, 1.0}
  assert (out / 'sweep.md').read_text().count('\n') == 6
  names = ('sweep_curve', 'sweep_use_before', 'sweep_use_1')
  assert all((out / f'{name}.png').is_file() for name in names)


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
  assert '<h2>Classes</h2>' in page
  assert 'http://' not in page.replace('http://www.w3.org', '')
  assert (trained / 'pruned' / 'opt_extract' / 'contract.json').is_file()
