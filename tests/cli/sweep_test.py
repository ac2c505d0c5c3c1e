"""A grid of jobs, one row each: cached, resumed, cut in pieces, tabulated."""

import csv
import json
import pathlib
import shutil
import textwrap

import numpy as np
import pytest

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import main
from rsfm_jax.cli import models
from rsfm_jax.cli import sweep_features
from rsfm_jax.cli import sweep_grid
from rsfm_jax.evaluate import probe
from rsfm_jax.evaluate import sweep_rows

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = """
from configs import sweep_base


def get_config():
  c = sweep_base.get_config()
  c.name = 'nano'
  c.checkpoints.mine = sweep_base.section(path='{trained}')
  c.datasets.scenes = sweep_base.section(store='{scenes}')
  c.protocols = ('galileo_knn5', 'torchgeobench_knn5')
  c.label_fractions = (0.2, 1.0)
  c.seeds = (0, 1)
  c.resamples = 20
  c.features.stages = ('final',)
{more}
  return c
"""


@pytest.fixture(scope='module')
def write_config(trained, stores, tmp_path_factory):
  def write(*lines):
    path = tmp_path_factory.mktemp('sweep') / 'nano.py'
    more = textwrap.indent('\n'.join(lines), '  ')
    path.write_text(
      CONFIG.format(trained=trained, scenes=stores / 'scenes', more=more)
    )
    return str(path)

  return write


def sweep(config, out, *words):
  named = ['--config', str(config), '--out', str(out)]
  return main.main(['sweep', *named, *words])


@pytest.fixture(scope='module')
def swept(write_config, tmp_path_factory):
  """A config and the folder of its finished sweep."""
  config = write_config("c.variants.one = sweep_base.section(keep='pooled:1')")
  out = tmp_path_factory.mktemp('out') / 'nano'
  assert sweep(config, out) == 0
  return config, out


def by_job(out):
  return {r.job: r for r in sweep_rows.read(out)}


def test_every_cell_of_the_grid_has_one_row(swept):
  config, out = swept
  grid = sweep_grid.grid(configs.load(config))
  results = sweep_rows.read(out)
  # 4 sources of features x 2 protocols x (2 seeds of 20 %, 1 of all labels).
  assert len(results) == len(grid.jobs) == 24
  assert {r.job for r in results} == set(grid.jobs)
  assert all(r.status == 'done' for r in results)
  for result in results:
    row, job = result.row, result.job
    assert row.low <= row.value <= row.high
    assert (row.protocol, row.name) == (job.protocol, job.name)
    assert row.n_train < 30 if job.label_fraction < 1 else row.n_train > 60


def test_rows_name_the_parameters_that_were_measured(swept, trained):
  whole = models.open_model(trained).content_hash
  hashes = {}
  for result in by_job(swept[1]).values():
    hashes.setdefault(result.job.variant, set()).add(result.row.checkpoint)
  assert hashes['whole'] == {whole}
  assert hashes['raw statistics'] == hashes['random init'] == {''}
  assert hashes['one'].isdisjoint({whole, ''}) and len(hashes['one']) == 1


def test_a_row_is_what_evaluate_measures(swept, trained, stores, tmp_path):
  path = tmp_path / 'rows.jsonl'
  words = ['evaluate', '--store', str(stores / 'scenes'), '--baselines', 'none']
  words += ['--checkpoint', f'mine={trained}', '--protocols', 'galileo_knn5']
  assert main.main([*words, '--stages', 'final', '--out', str(path)]) == 0
  alone = json.loads(path.read_text())
  job = sweep_rows.Job('mine', 'whole', 'scenes', 'galileo_knn5', 1.0, 0)
  row = by_job(swept[1])[job].row
  same = ('value', 'n_train', 'n_test', 'checkpoint', 'normalisation')
  for name in same:
    assert getattr(row, name) == alone[name], name


def must_not_run(*_):
  raise AssertionError('the features are cached')


def test_again_it_does_nothing_and_a_missing_job_alone_is_done(
  swept, tmp_path, monkeypatch
):
  config, done = swept
  out = tmp_path / 'again'
  shutil.copytree(done, out)
  monkeypatch.setattr(sweep_features, '_encode', must_not_run)
  lines = (out / 'rows.jsonl').read_text().splitlines(keepends=True)
  assert sweep(config, out) == 0
  assert (out / 'rows.jsonl').read_text() == ''.join(lines)
  # A killed writer leaves half a line.
  (out / 'rows.jsonl').write_text(''.join(lines[:5] + lines[6:]) + lines[5][:9])
  assert sweep(config, out) == 0
  again = (out / 'rows.jsonl').read_text().splitlines(keepends=True)
  assert len(again) == len(lines)
  last = sweep_rows.read(out)[-1]
  assert last.job == sweep_rows.Result.from_json(json.loads(lines[5])).job
  assert last.source == 'cached'


def test_shards_together_do_what_one_does(swept, tmp_path):
  config, done = swept
  out = tmp_path / 'shards'
  shutil.copytree(done / 'features', out / 'features')
  for i in range(3):
    assert sweep(config, out, '--shard', f'{i}/3', '--tables', 'skip') == 0
  assert len(list(out.glob('rows.*-of-3.jsonl'))) == 3
  one, many = by_job(done), by_job(out)
  assert one.keys() == many.keys()
  assert all(one[job].row.value == many[job].row.value for job in one)
  assert not (out / 'tables.md').exists()
  assert sweep(config, out) == 0
  values = [(folder / 'tables.csv').read_text() for folder in (done, out)]
  assert values[0] == values[1]


@pytest.mark.slow
def test_processes_do_what_one_does(swept, tmp_path):
  config, done = swept
  out = tmp_path / 'processes'
  shutil.copytree(done / 'features', out / 'features')
  assert sweep(config, out, '--jobs', '2') == 0
  one, many = by_job(done), by_job(out)
  assert {j: r.row.value for j, r in one.items()} == {
    j: r.row.value for j, r in many.items()
  }


def test_leaderboards_get_their_columns(swept):
  _, out = swept
  read = lambda name: list(csv.DictReader((out / name).open()))
  assert len(read('geobench2.csv')) == 24
  mine = read('torchgeo_bench.csv')
  assert len(mine) == 12 and {r['method'] for r in mine} == {'knn5'}
  assert {r['partition'] for r in mine} == {'default', '0.20x_train'}
  assert all(int(r['feature_dim']) > 0 for r in mine)


def test_seeds_of_a_trained_probe_are_one_program(
  write_config, swept, tmp_path, monkeypatch
):
  config = write_config(
    "c.baselines = ('raw statistics',)",
    "c.protocols = ('olmoearth_lp_sweep',)",
    'c.label_fractions = (1.0,)',
    "c.features.pools = ('mean', 'max')",
    "c.checkpoints.mine.variants = ('whole',)",
  )
  calls, fit = [], probe.fit

  def counted(*args, **kwargs):
    calls.append(kwargs['seeds'])
    return fit(*args, **kwargs)

  monkeypatch.setattr(probe, 'fit', counted)
  assert sweep(config, tmp_path / 'o') == 0
  assert calls == [[0, 1], [0, 1]]  # Of raw statistics, and of the model.
  found = by_job(tmp_path / 'o')
  assert len(found) == 4
  for job, result in found.items():
    assert result.row.chosen['seed'] == job.seed
    assert ('pooling' in result.row.chosen) == (job.variant == 'whole')


def test_tables_in_three_forms(swept):
  _, out = swept
  text = (out / 'tables.md').read_text()
  assert text.startswith('nano: 24 of 24 jobs done, 0 failed.')
  assert '**' in text and 'scenes, 20 % of labels' in text
  with open(out / 'tables.csv') as file:
    lines = list(csv.DictReader(file))
  assert len(lines) == 4 * 2 * 2
  few = next(
    x
    for x in lines
    if (x['name'], x['protocol'], x['label_fraction'])
    == ('mine: one', 'galileo_knn5', '0.2')
  )
  runs = [
    r.row.value
    for r in by_job(out).values()
    if r.job.variant == 'one'
    and r.job.protocol == 'galileo_knn5'
    and r.job.label_fraction == 0.2
  ]
  assert float(few['value']) == pytest.approx(np.mean(runs))
  assert (few['seeds'], few['interval']) == ('2', 'seeds')
  page = (out / 'tables.html').read_text()
  assert 'mine: one' in page and '<script' not in page
  assert '<h2>Label fractions</h2>' in page


def test_a_dry_run_lists_jobs_and_costs_and_writes_nothing(
  swept, tmp_path, capsys
):
  config, done = swept
  assert sweep(config, tmp_path / 'new', '--dry_run') == 0
  out = capsys.readouterr().out
  assert '24 jobs, 24 to do; 480 images to encode, 0 of 4' in out
  assert not (tmp_path / 'new').exists()
  words = ('--dry_run', "--config.protocols=('galileo_knn5', 'linear')")
  assert sweep(config, done, *words) == 0
  # 9 values of C for 4 sources x (2 seeds of 20 % + 1 of all).
  out = capsys.readouterr().out
  assert '24 jobs, 12 to do; 0 images to encode, 4 of 4' in out
  assert '108 fits' in out


def test_a_missing_checkpoint_is_rows_that_say_so(
  swept, tmp_path, capsys, trained
):
  config, done = swept
  out = tmp_path / 'missing'
  shutil.copytree(done / 'features', out / 'features')
  words = ('--config.checkpoints.mine.path=nowhere',)
  assert sweep(config, out, *words) == 0
  failed = [r for r in by_job(out).values() if r.status == 'failed']
  assert {r.job.checkpoint for r in failed} == {'mine'} and len(failed) == 18
  assert all('nowhere is neither a model' in r.error for r in failed)
  assert '6 of 24 jobs done, 18 failed' in (out / 'tables.md').read_text()
  assert 'nowhere is neither' in (out / 'tables.html').read_text()
  # Once it is there, what failed is done.
  assert sweep(config, out) == 0
  assert '24 of 24 jobs done, 0 failed' in (out / 'tables.md').read_text()


def test_a_protocol_that_fails_leaves_the_others(write_config, swept, tmp_path):
  """A variant that cannot be pruned so, beside models that can be measured."""
  config = write_config(
    "c.variants.bad = sweep_base.section(keep='best:1')",
    "c.protocols = ('galileo_knn5',)",
    'c.label_fractions = (1.0,)',
    f"c.features.cache = '{swept[1] / 'features'}'",
  )
  assert sweep(config, tmp_path / 'o') == 0
  failed = [r for r in sweep_rows.read(tmp_path / 'o') if r.row is None]
  assert [r.job.variant for r in failed] == ['bad']
  assert "--keep='best' is not allowed" in failed[0].error


def damaged(stores, tmp_path, change):
  folder = tmp_path / 'damaged'
  shutil.copytree(stores / 'scenes', folder)
  index = json.loads((folder / 'index.json').read_text())
  change(index['samples'], index)
  (folder / 'index.json').write_text(json.dumps(index))
  return folder


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda s, i: s['label'].__setitem__(3, 99), 'label 99 of sample'),
    (lambda s, i: s.update(split=['test'] * len(s['id'])), 'choose one of'),
    (lambda s, i: i['classes'].append('moon'), "no sample of ['moon']"),
  ],
)
def test_a_bad_store_is_rows_that_say_so(
  swept, stores, tmp_path, change, message
):
  folder = damaged(stores, tmp_path, change)
  words = (
    f'--config.datasets.scenes.store={folder}',
    "--config.protocols=('galileo_knn5',)",
    '--config.label_fractions=(1.0,)',
  )
  assert sweep(swept[0], tmp_path / 'o', *words) == 0
  results = sweep_rows.read(tmp_path / 'o')
  assert len(results) == 4
  assert all(message in r.error for r in results), results[0].error


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (["--config.protocols=('linaer',)"], 'Did you mean "linear"'),
    (['--config.label_fractions=(0.0,)'], 'must lie in (0, 1]'),
    (['--config.seeds=()'], 'config.seeds is empty'),
    (['--config.seeds=(1, 1)'], 'repeats a value'),
    (["--config.baselines=('raw',)"], "config.baselines='raw'"),
    (['--jobs', '0'], '--jobs 0'),
  ],
)
def test_bad_configs_are_named_before_anything_runs(
  swept, tmp_path, capsys, words, message
):
  assert sweep(swept[0], tmp_path / 'o', *words) == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'o').exists()


def test_a_shard_that_is_none_is_refused(swept, tmp_path, capsys):
  with pytest.raises(SystemExit):
    sweep(swept[0], tmp_path / 'o', '--shard', '3/3')
  assert '0 <= I < N' in capsys.readouterr().err


def test_the_quick_config_is_a_grid():
  config = configs.load(str(ROOT / 'configs' / 'sweep' / 'quick.py'))
  grid = sweep_grid.grid(config)
  assert len(grid.groups) == 4
  assert len(grid.jobs) == 4 * 4 * (4 * 3 + 1)
