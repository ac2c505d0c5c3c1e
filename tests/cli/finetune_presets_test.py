"""configs/finetune/presets: whose rules, and what rows say of a change."""

import pathlib

import pytest

from rsfm_jax.cli import compose
from rsfm_jax.cli import config as configs
from rsfm_jax.cli import finetune as verb
from rsfm_jax.cli import main
from rsfm_jax.cli.systems import finetune
from rsfm_jax.evaluate import rows as rows_lib

FOLDER = pathlib.Path(__file__).parents[2] / 'configs/finetune/presets'
TASKS = {
  'pangaea': (
    'segmentation', 'change', 'regression', 'classification', 'multilabel',
  ),
  'olmoearth': ('segmentation', 'regression', 'classification', 'multilabel'),
  'geobench2': ('segmentation', 'regression', 'classification', 'multilabel'),
}  # fmt: skip


def load(harness, task, *overrides):
  return configs.load(f'{FOLDER / harness}.py:{task}', overrides)


@pytest.mark.parametrize(
  'harness, task', [(h, task) for h, tasks in TASKS.items() for task in tasks]
)
def test_every_task_makes_its_specs_and_keeps_its_rules(harness, task):
  config = load(harness, task)
  assert config.protocol.name.startswith(harness)
  assert config.protocol.name.endswith(task) and config.protocol.version == 1
  assert verb._changed(config) == {}
  config.task.outputs = config.task.outputs or 3
  spec = finetune.finetuning_spec(config)
  kinds = {'classification': 'classes', 'multilabel': 'labels'}
  kinds['regression'] = 'map'
  assert spec.task.kind == kinds.get(task, task)
  finetune.window(config)
  compose.optimizer(config, total_steps=1000, batch_size=8)


def test_pangaea_freezes_the_encoder_under_upernet():
  config = load('pangaea', 'segmentation')
  spec = finetune.finetuning_spec(config)
  assert (spec.encoder, spec.task.head) == ('frozen', 'upernet')
  assert (spec.task.channels, spec.task.dropout) == (512, 0.1)
  optim = compose.optimizer(config, total_steps=1000, batch_size=8)
  assert (optim.learning_rate, optim.weight_decay) == (1e-4, 0.05)
  assert (optim.shape, optim.milestones) == ('multistep', (0.6, 0.9))
  assert (config.data.batch_size, config.seed) == (8, 234)
  assert config.train.total_epochs == 80
  assert config.evaluation.metric == 'miou_absent_zero'
  assert load('pangaea', 'classification').train.total_epochs == 50


def test_olmoearth_holds_the_encoder_for_a_fifth():
  optim = compose.optimizer(
    load('olmoearth', 'classification'), total_steps=1000, batch_size=8
  )
  assert optim.held_steps == 200 and optim.milestones == (0.2,)
  assert optim.gamma == 0.1 and optim.weight_decay == 0.01


def test_geobench2_tunes_all_under_a_unet():
  spec = finetune.finetuning_spec(load('geobench2', 'segmentation'))
  assert (spec.encoder, spec.task.head) == ('trained', 'unet')


def test_a_rule_that_an_override_breaks_is_named():
  config = load(
    'geobench2',
    'multilabel',
    '--config.model.encoder=frozen',
    '--config.optim.learning_rate=3e-4',  # Its search's: no rule.
  )
  assert verb._changed(config) == {'model.encoder': 'frozen'}


def test_a_task_that_is_none_is_refused():
  with pytest.raises(ValueError, match="task 'detection' must be one of"):
    load('pangaea', 'detection')


def test_rows_name_preset_and_version(stores, trained, tmp_path):
  words = {
    'data.root': stores, 'data.store': 'scenes', 'data.batch_size': 16,
    'model.checkpoint': trained, 'data.window.size': 16,
    'evaluation.resamples': 20, 'train.evaluation_percent': 100.0,
    'train.total_epochs': 0.3,
  }  # fmt: skip
  argv = ['finetune', '--config', f'{FOLDER}/pangaea.py:classification']
  argv += ['--workdir', str(tmp_path)]
  argv += [f'--config.{key}={value}' for key, value in words.items()]
  assert main.main(argv) == 0
  row = rows_lib.read(tmp_path / 'rows.jsonl')[0]
  assert (row.protocol, row.protocol_version) == ('pangaea_classification', 1)
  assert row.chosen['changed'] == {
    'data.batch_size': 16, 'train.total_epochs': 0.3,
  }  # fmt: skip
