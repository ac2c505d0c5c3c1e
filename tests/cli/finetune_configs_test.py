"""configs/finetune: every file is whole, and says what the paper prints."""

import pathlib

import pytest

from rsfm_jax.cli import compose
from rsfm_jax.cli import config as configs
from rsfm_jax.cli.systems import finetune
from rsfm_jax.cli.systems import finetune_encoder
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.sensors import catalogue

FOLDER = pathlib.Path(__file__).parents[2] / 'configs' / 'finetune'
PATHS = {
  path.stem: path
  for path in sorted(FOLDER.rglob('*.py'))
  if path.stem != 'base'
}
# arXiv 2507.13812, Tables 4 to 7: pixels, rate, weight decay, layer decay,
# schedule, head, loss.
PRINTED = {
  'dyna_pla': (1024, 1e-4, 0.01, 0.8, 'poly', 'upernet', 'cross_entropy'),
  'isaid': (896, 1e-4, 0.01, 0.8, 'poly', 'upernet', 'cross_entropy'),
  'potsdam': (512, 1e-4, 0.01, 0.8, 'poly', 'upernet', 'cross_entropy'),
  'dyna_s2': (256, 1e-4, 0.01, 0.8, 'poly', 'upernet', 'cross_entropy'),
  'levir_cd': (256, 6e-5, 0.01, 0.9, 'linear', 'bit', 'cross_entropy'),
  'oscd': (96, 6e-4, 1e-4, 0.9, 'exponential', 'unet', 'soft_margin'),
  'dyna_s2_change': (256, 1e-4, 0.05, 0.8, 'poly', 'upernet', 'cross_entropy'),
  'aid': (320, 6e-5, 0.05, 0.9, 'cosine', 'linear', 'cross_entropy'),
  'resisc45': (320, 6e-5, 0.05, 0.9, 'cosine', 'linear', 'cross_entropy'),
  'bigearthnet_s2': (
    128,
    5e-5,
    0.01,
    0.9,
    'multistep',
    'linear',
    'soft_margin',
  ),
  'dior': (800, 8e-5, 0.05, 0.85, 'multistep', 'faster_rcnn', 'cross_entropy'),
  'dior_r': (
    800,
    8e-5,
    0.05,
    0.85,
    'multistep',
    'oriented_rcnn',
    'cross_entropy',
  ),
  'fair1m': (
    512,
    8e-5,
    0.05,
    0.85,
    'multistep',
    'oriented_rcnn',
    'cross_entropy',
  ),
  'fmow_s2': (96, 8e-4, 0.05, 0.9, 'cosine', 'linear', 'cross_entropy'),
}


@pytest.mark.parametrize('name', PATHS)
def test_a_config_makes_every_spec(name):
  config = configs.load(str(PATHS[name]))
  spec = finetune_encoder.spec_of(config)
  task = finetune.finetuning_spec(config).task
  assert task.outputs >= 1
  window = finetune.window(config)
  bands = len(catalogue.get(config.data.sensor).bands)
  if isinstance(spec, skysense_v2_spec.SkySenseV2Spec):
    assert spec.sensors == (config.data.sensor,) and spec.channels == (bands,)
    assert window.size % spec.stride(config.data.sensor) == 0
  optim = compose.optimizer(config, total_steps=10_000, batch_size=1)
  assert 0 <= optim.warmup_steps < 10_000
  changed = configs.load(str(PATHS[name]), ['--config.optim.shape=cubic'])
  with pytest.raises(ValueError, match='optim.shape'):
    compose.optimizer(changed, total_steps=10_000, batch_size=1)


@pytest.mark.parametrize('name', PRINTED)
def test_a_config_of_the_paper_says_what_it_prints(name):
  config = configs.load(str(PATHS[name]))
  assert PRINTED[name] == (
    config.data.window.size,
    config.optim.learning_rate,
    config.optim.weight_decay,
    config.optim.layer_decay,
    config.optim.shape,
    config.task.head,
    config.task.loss,
  )
  assert config.model.changes.drop_path == 0.2


def test_all_of_the_papers_single_sensor_tables_are_there():
  known = {path.stem for path in (FOLDER / 'skysense_v2').glob('*.py')}
  assert known == set(PRINTED) | {'base'}


@pytest.mark.parametrize(
  'name, epochs, warmup, milestones, symmetry',
  [
    ('dior', 12, 1000, (8, 11), 'flip'),
    ('dior_r', 12, 1000, (8, 11), 'flip'),
    ('fair1m', 8, 500, (5, 7), 'd4'),
  ],
)
def test_detection_recipes_step_down_as_table_5_says(
  name, epochs, warmup, milestones, symmetry
):
  c = configs.load(str(PATHS[name]))
  assert (c.train.total_epochs, c.optim.warmup_steps) == (epochs, warmup)
  assert c.optim.warmup_learning_rate == pytest.approx(1e-3 * 8e-5)
  assert [epochs * share for share in c.optim.milestones] == list(milestones)
  assert (c.data.window.symmetry, c.data.batch_size) == (symmetry, 8)


def test_classification_recipes_erase_and_mix_as_table_7_says():
  aid = finetune.finetuning_spec(configs.load(str(PATHS['aid']))).mixing
  assert (aid.erasing, aid.erasing_area) == (0.3, (0.03, 0.333))
  fmow = finetune.finetuning_spec(configs.load(str(PATHS['fmow_s2']))).mixing
  assert (fmow.mixup, fmow.mixup_probability) == (0.8, 1.0)


@pytest.mark.parametrize(
  'override, words',
  [
    ('--config.task.head=fcn', 'task.head'),
    ('--config.task.levels=("final","stage_0")', 'task.levels'),
    ('--config.task.outputs=1', 'task.outputs'),
    ('--config.mixing.erasing=1.5', 'mixing.erasing'),
    ('--config.model.encoder=half', 'config.model.encoder'),
  ],
)
def test_a_wrong_value_is_named_by_its_key(override, words):
  config = configs.load(str(PATHS['aid']), [override])
  with pytest.raises(ValueError, match=words):
    finetune.finetuning_spec(config)


def test_a_sensor_that_the_model_lacks_is_named():
  config = configs.load(str(PATHS['aid']), ['--config.data.sensor=sar_l1'])
  with pytest.raises(ValueError, match='config.model.tokenizer'):
    finetune_encoder.spec_of(config)
