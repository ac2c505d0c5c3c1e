"""`rsfm finetune`: what a run leaves, how it resumes, what it refuses."""

import numpy as np
import pytest

from rsfm_jax.cli import main
from rsfm_jax.cli import models
from rsfm_jax.cli import running
from rsfm_jax.core import files
from rsfm_jax.core import trees
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.train import checkpoint
from rsfm_jax.train import loop
from rsfm_jax.train import writers

CONFIG = """
from configs import finetune_base


def get_config():
  c = finetune_base.get_config()
  c.data.store = 'scenes'
  c.data.batch_size = 16
  c.data.window.update(size=16, form='area', symmetry='flip')
  c.optim.learning_rate = 1e-3
  c.optim.layer_decay = 0.5
  c.mixing.update(erasing=0.5, mixup=0.8)
  c.train.total_steps = 4
  c.train.checkpoint_percent = 50.0
  c.train.keep = 2
  c.train.evaluation_percent = 50.0
  c.train.log_steps = 1
  c.evaluation.resamples = 20
  return c
"""


@pytest.fixture(scope='module')
def finetune(stores, trained, tmp_path_factory):
  """`finetune(workdir, *overrides)` -> exit code; from the trained run."""
  path = tmp_path_factory.mktemp('config') / 'nano.py'
  path.write_text(CONFIG)

  def run(workdir, *overrides):
    return main.main(
      [
        'finetune',
        '--config',
        str(path),
        '--workdir',
        str(workdir),
        f'--config.data.root={stores}',
        f'--config.model.checkpoint={trained}',
        *overrides,
      ]
    )

  return run


@pytest.fixture(scope='module')
def tuned(finetune, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('tuned')
  assert finetune(workdir) == 0
  return workdir


def test_a_run_leaves_curves_the_best_state_and_test_rows(tuned):
  rows = writers.read(tuned / 'metrics.jsonl')
  measured = {r['step']: r['val/accuracy'] for r in rows if 'val/accuracy' in r}
  assert sorted(measured) == [2, 4]
  best = checkpoint.metadata(tuned / 'best')
  assert best['best']['accuracy'] == max(measured.values())
  (step,) = checkpoint.steps(tuned / 'best')
  assert measured[step] == max(measured.values())
  found = {row.metric: row for row in rows_lib.read(tuned / 'rows.jsonl')}
  assert set(found) == {'accuracy', 'macro_f1', 'balanced_accuracy'}
  row = found['accuracy']
  assert row.low <= row.value <= row.high
  assert (row.protocol, row.dataset) == ('finetune', 'scenes')
  assert row.chosen['step'] == step


def test_the_page_tells_classes_apart(tuned, tmp_path):
  (entry,) = files.read_json(tuned / 'confusion.json')
  table, rows = np.array(entry['table']), rows_lib.read(tuned / 'rows.jsonl')
  assert table.shape == (12, 12) and table.sum() == rows[0].n_test
  accuracy = np.trace(table) / table.sum()
  assert accuracy == pytest.approx(rows[0].value)
  out = tmp_path / 'page.html'
  words = ['report', '--workdir', str(tuned), '--out', str(out)]
  assert main.main(words) == 0
  page = out.read_text()
  for title in ('Classes', 'Training', 'Results'):
    assert f'<h2>{title}</h2>' in page
  assert all(name in page for name in entry['classes'])
  assert main.main([*words, '--sweep', str(tmp_path)]) == 2


def test_an_interrupted_run_ends_as_one_that_was_not(
  finetune, tuned, tmp_path, monkeypatch
):
  class Interrupt(loop.Hook):
    def metrics(self, step, values):
      if step == 3:
        raise RuntimeError('pulled the plug')

  whole = running.hooks
  monkeypatch.setattr(
    running, 'hooks', lambda *a, **k: [*whole(*a, **k), Interrupt()]
  )
  assert finetune(tmp_path) == 2
  assert not (tmp_path / 'rows.jsonl').exists()
  assert checkpoint.steps(tmp_path / 'checkpoints') == [2]
  monkeypatch.setattr(running, 'hooks', whole)
  assert finetune(tmp_path) == 0
  for which in ('checkpoints', 'best'):
    one, two = (
      checkpoint.load_params(folder / which) for folder in (tuned, tmp_path)
    )
    assert one.step == two.step
    assert checkpoint.content_hash(one.params) == checkpoint.content_hash(
      two.params
    )
  measured = [
    [(r.metric, r.value, r.low, r.high) for r in rows_lib.read(path)]
    for path in (tuned / 'rows.jsonl', tmp_path / 'rows.jsonl')
  ]
  assert measured[0] == measured[1]


def test_running_again_adds_no_row(finetune, tuned):
  before = (tuned / 'rows.jsonl').read_text()
  assert finetune(tuned) == 0
  assert (tuned / 'rows.jsonl').read_text() == before


def test_a_tuned_encoder_opens_without_its_head(tuned, trained):
  opened, before = models.open_model(tuned), models.open_model(trained)
  assert 'objective' not in opened.params
  assert 'decoder' not in opened.params
  kernel = lambda one: one.params['embed']['opt']['kernel']
  assert not np.array_equal(kernel(opened), kernel(before))
  # Layer-wise decay: the tokenizer moves less than the last block.
  moved = lambda name: np.abs(
    trees.flatten(opened.params)[name] - trees.flatten(before.params)[name]
  ).mean()
  last = 'stage_1/blocks/attention/query/kernel'
  assert moved('embed/opt/kernel') < moved(last)


def test_a_frozen_encoder_keeps_its_bits(finetune, trained, tmp_path):
  assert finetune(tmp_path, '--config.model.encoder=frozen') == 0
  flat = lambda folder: trees.flatten(models.open_model(folder).params)
  before = flat(trained)
  for name, leaf in flat(tmp_path).items():
    assert np.array_equal(leaf, before[name]), name


@pytest.mark.parametrize(
  'override, words',
  [
    ('--config.data.sensor=dem', 'config.data.sensor'),
    ('--config.data.train_split=val', 'config.data.train_split'),
    ('--config.data.target=landcover', "data.target='landcover'"),
    ('--config.task.outputs=3', 'is no class of 0 to 2'),
    ('--config.task.kind=segmentation', 'config.task.outputs'),
    ('--config.data.normalisation=none', 'config.data.normalisation'),
    ('--config.task.head=bit', 'task.head'),
    ('--config.evaluation.metric=miou', 'evaluation.metric'),
  ],
)
def test_a_wrong_value_is_one_line_and_leaves_no_result(
  finetune, tmp_path, capsys, override, words
):
  assert finetune(tmp_path, override) == 2
  error = capsys.readouterr().err
  assert words in error
  assert not (tmp_path / 'rows.jsonl').exists()


def test_a_pre_training_config_is_refused(config, tmp_path, capsys):
  argv = ['finetune', '--config', config, '--workdir', str(tmp_path)]
  assert main.main(argv) == 2
  assert 'rsfm pretrain' in capsys.readouterr().err
