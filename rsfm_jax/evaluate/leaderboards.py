"""Results of a sweep in the columns of other people's leaderboards.

What a leaderboard asks and a row does not know (image sizes, bands) stays
empty. Whether an entry may be sent in is for its rules: GEO-Bench 2 wants five
seeds of each pair of model and data set and the data sets of a whole dimension,
under the data sets' own names.
"""

from collections.abc import Sequence
import csv
import io
import math
from typing import Any

from rsfm_jax.evaluate import protocols
from rsfm_jax.evaluate import sweep_rows

# GEO-Bench-2-Leaderboard: utils/constants.py, NEW_SUBMISSION_COLUMN_INFO.
GEOBENCH2 = (
  'dataset', 'Metric', 'experiment_name', 'partition name', 'backbone',
  'decoder', 'batch_size_selection', 'frozen_or_full_ft',
  'early_stop_patience', 'n_trials', 'Seed', 'data_percentages', 'batch_size',
  'weight_decay', 'lr', 'test metric',
)  # fmt: skip
# Overall accuracy; F1 is TerraTorch's, the macro mean over labels.
_GEOBENCH2_METRICS = {
  'accuracy': 'Overall_Accuracy',
  'macro_f1': 'Multilabel_F1_Score',
}
# torchgeo-bench: the head of results/all_results.csv.
TORCHGEO_BENCH = (
  'dataset', 'method', 'metric_name', 'metric_value', 'ci_lower', 'ci_upper',
  'feature_dim', 'best_c', 'best_lr', 'best_batch_size', 'n_train', 'n_val',
  'n_test', 'seed', 'model', 'name', 'normalization', 'image_size',
  'interpolation', 'partition', 'bands', 'c_range_start', 'c_range_stop',
  'c_range_num', 'merge_val', 'bootstrap', 'fw_iou', 'precision', 'recall',
  'f1', 'ece', 'rms_ce', 'mce', 'ece_ts', 'rms_ce_ts', 'mce_ts', 'temperature',
  'calibration_n_bins',
)  # fmt: skip
_METHODS = {'torchgeobench_knn5': 'knn5', 'torchgeobench_linear': 'linear'}
_TORCHGEO_METRICS = {'accuracy': 'accuracy', 'micro_map': 'micro_mAP'}


def geobench2(results: Sequence[sweep_rows.Result], *, name: str) -> str:
  """CSV of `results_and_parameters.csv`: a line for each result that is done.

  Args:
    results: of a sweep.
    name: of the sweep; with the protocol it is the experiment's.
  """
  return _csv(GEOBENCH2, (_geobench2(r, name) for r in results if r.row))


def torchgeo_bench(
  results: Sequence[sweep_rows.Result], *, resamples: int
) -> str:
  """CSV of `all_results.csv`: results under torchgeo-bench's own protocols.

  Args:
    results: of a sweep.
    resamples: of the bootstrap behind the intervals; 200 there.
  """
  mine = (r for r in results if r.row and r.job.protocol in _METHODS)
  return _csv(TORCHGEO_BENCH, (_torchgeo(r, resamples) for r in mine))


def _csv(columns: Sequence[str], lines) -> str:
  out = io.StringIO()
  writer = csv.DictWriter(out, columns, restval='', lineterminator='\n')
  writer.writeheader()
  writer.writerows(lines)
  return out.getvalue()


def _geobench2(result: sweep_rows.Result, name: str) -> dict[str, Any]:
  job, row = result.job, result.row
  protocol = protocols.get(job.protocol)
  # Bits have no accuracy.
  metric = 'accuracy' if 'accuracy' in row.metrics else 'macro_f1'
  recipe = protocol.recipe
  line = {
    'dataset': job.dataset,
    'Metric': _GEOBENCH2_METRICS[metric],
    'experiment_name': f'{name}_{job.protocol}',
    'partition name': f'{job.label_fraction:.2f}x train',
    'backbone': job.name,
    'decoder': 'knn' if protocol.kind == 'knn' else 'linear',
    'batch_size_selection': 'fixed',
    'frozen_or_full_ft': 'frozen',
    'n_trials': protocol.fits,
    'Seed': job.seed,
    'data_percentages': round(100 * job.label_fraction),
    'test metric': row.metrics[metric],
  }
  if recipe is not None:
    line |= {
      'batch_size': recipe.batch_size,
      'weight_decay': recipe.weight_decay,
      'lr': row.chosen['learning_rate'],
    }
  return line


def _torchgeo(result: sweep_rows.Result, resamples: int) -> dict[str, Any]:
  job, row = result.job, result.row
  protocol = protocols.get(job.protocol)
  merged = protocol.refit == 'train_val'
  part = f'{job.label_fraction:.2f}x_train'
  line = {
    'dataset': job.dataset,
    'method': _METHODS[job.protocol],
    'metric_name': _TORCHGEO_METRICS[row.metric],
    'metric_value': row.value,
    'ci_lower': row.low,
    'ci_upper': row.high,
    'feature_dim': row.width or '',
    'n_train': row.n_train - merged * row.n_val,
    'n_val': row.n_val or '',
    'n_test': row.n_test,
    'seed': job.seed,
    'model': job.checkpoint,
    'name': job.name,
    'normalization': row.normalisation,
    'partition': 'default' if job.label_fraction == 1 else part,
    'bootstrap': resamples,
  }
  if 'calibration_error' in row.metrics:
    line |= {'ece': row.metrics['calibration_error'], 'calibration_n_bins': 15}
  if protocol.grid:
    line |= {
      'best_c': row.chosen['C'],
      'c_range_start': round(math.log10(protocol.grid[0])),
      'c_range_stop': round(math.log10(protocol.grid[-1])),
      'c_range_num': len(protocol.grid),
      'merge_val': merged,
    }
  return line
