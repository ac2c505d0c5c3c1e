"""CSV files have the columns that the leaderboards read."""

import csv
import io

import pytest

from rsfm_jax.evaluate import leaderboards
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.evaluate import sweep_rows


def result(protocol, *, metrics, chosen, fraction=1.0, seed=3):
  metric = 'accuracy' if 'accuracy' in metrics else 'micro_map'
  row = rows_lib.Row(
    'demo: whole', 'm-eurosat', protocol, 1, 'pretrained', metric,
    metrics[metric], 0.4, 0.6, 'c0ffee', 'error', 30, 20, 0.1,
    metrics=metrics, chosen=chosen, n_val=10, width=96,
  )  # fmt: skip
  job = sweep_rows.Job('demo', 'whole', 'm-eurosat', protocol, fraction, seed)
  return sweep_rows.Result(job, row, features='k')


FAILED = sweep_rows.Result(
  sweep_rows.Job('demo', 'whole', 'x', 'torchgeobench_knn5', 1.0, 0), None, 'no'
)
PROBE = result(
  'olmoearth_lp',
  metrics={'accuracy': 0.8, 'macro_f1': 0.7},
  chosen={'learning_rate': 0.01},
  fraction=0.2,
)
LINEAR = result(
  'torchgeobench_linear',
  metrics={'accuracy': 0.9, 'calibration_error': 0.05},
  chosen={'C': 10.0},
)
BITS = result(
  'torchgeobench_knn5', metrics={'micro_map': 0.6, 'macro_f1': 0.5}, chosen={}
)


def read(text):
  return list(csv.DictReader(io.StringIO(text)))


def test_geobench2_takes_every_result_that_is_done():
  lines = read(
    leaderboards.geobench2([PROBE, FAILED, LINEAR, BITS], name='tiny')
  )
  assert len(lines) == 3
  probe, linear, bits = lines
  assert set(probe) == set(leaderboards.GEOBENCH2) and len(probe) == 16
  assert probe['Metric'] == 'Overall_Accuracy'
  assert bits['Metric'] == 'Multilabel_F1_Score'
  assert [float(r['test metric']) for r in lines] == [0.8, 0.9, 0.5]
  assert probe['partition name'] == '0.20x train'
  assert probe['experiment_name'] == 'tiny_olmoearth_lp'
  assert (probe['lr'], probe['batch_size'], probe['weight_decay']) == (
    '0.01', '128', '0.01',
  )  # fmt: skip
  assert probe['n_trials'] == '8' and probe['Seed'] == '3'
  assert (linear['lr'], linear['frozen_or_full_ft']) == ('', 'frozen')
  # Its door wants numbers in these columns, or nothing.
  for name in ('early_stop_patience', 'data_percentages', 'Seed', 'lr'):
    assert all(float(r[name] or 0) >= 0 for r in lines), name


def test_torchgeo_bench_takes_its_own_protocols():
  lines = read(
    leaderboards.torchgeo_bench([PROBE, FAILED, LINEAR, BITS], resamples=200)
  )
  linear, bits = lines
  assert tuple(linear) == leaderboards.TORCHGEO_BENCH
  assert (linear['method'], bits['method']) == ('linear', 'knn5')
  assert (linear['metric_name'], bits['metric_name']) == (
    'accuracy', 'micro_mAP',
  )  # fmt: skip
  # The refit saw train and val; the column is train alone.
  assert (linear['n_train'], linear['n_val']) == ('20', '10')
  assert bits['n_train'] == '30' and bits['c_range_num'] == ''
  assert (linear['best_c'], linear['merge_val']) == ('10.0', 'True')
  assert (linear['c_range_start'], linear['c_range_stop']) == ('-6', '4')
  assert (linear['ece'], linear['partition']) == ('0.05', 'default')


def test_no_result_is_a_head_alone():
  for text in (
    leaderboards.geobench2([FAILED], name='x'),
    leaderboards.torchgeo_bench([FAILED], resamples=1),
  ):
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
  'fraction, name', [(0.05, '0.05x_train'), (1, 'default')]
)
def test_partitions_are_named_as_geo_bench_does(fraction, name):
  one = result('torchgeobench_knn5', metrics={'accuracy': 0.5}, chosen={},
               fraction=fraction)  # fmt: skip
  (line,) = read(leaderboards.torchgeo_bench([one], resamples=1))
  assert line['partition'] == name
