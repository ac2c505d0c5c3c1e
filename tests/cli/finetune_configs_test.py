"""configs/finetune: every file is whole, and says what the paper prints."""

import pathlib

import pytest

from rsfm_jax.cli import compose
from rsfm_jax.cli import config as configs
from rsfm_jax.cli.systems import finetune
from rsfm_jax.cli.systems import finetune_encoder
from rsfm_jax.cli.systems import finetune_tiles
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.sensors import catalogue

FOLDER = pathlib.Path(__file__).parents[2] / 'configs' / 'finetune'
PATHS = {
  path.stem: path
  for path in sorted(FOLDER.rglob('*.py'))
  if path.stem != 'base'
}
# arXiv 2507.13812, Tables 4 to 8: pixels, rate, weight decay, layer decay,
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
  'dyna_mm': (1024, 6e-5, 0.01, 1.0, 'linear', 'upernet', 'cross_entropy'),
  'pastis_mm': (4096, 6e-5, 0.01, 1.0, 'linear', 'fcn', 'cross_entropy'),
  'bigearthnet_mm': (
    128,
    5e-5,
    0.01,
    1.0,
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
  sensors = finetune_tiles.sensors(config)
  bands = tuple(len(catalogue.get(name).bands) for name in sensors)
  if isinstance(spec, skysense_v2_spec.SkySenseV2Spec):
    assert spec.sensors == sensors and spec.channels == bands
    assert bool(spec.fusion_depth) == (len(sensors) > 1)
    sides = {
      s: window.size // n for s, n in finetune_tiles.factors(config).items()
    }
    assert all(side % spec.stride(s) == 0 for s, side in sides.items())
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


def test_table_8_is_as_printed():
  """Batch, steps or epochs, warm-up, pixels of each sensor, flips alone."""
  found = {}
  for name in ('dyna_mm', 'pastis_mm', 'bigearthnet_mm'):
    c = configs.load(str(PATHS[name]))
    found[name] = (
      c.data.batch_size,
      c.train.total_steps or c.train.total_epochs,
      (c.optim.warmup_steps, c.optim.warmup_learning_rate),
      tuple(
        c.data.window.size // n for n in finetune_tiles.factors(c).values()
      ),
    )
    assert c.data.window.symmetry == 'flip'
    assert tuple(c.data.window.scale) == (1, 1)
    assert c.model.changes.fusion_drop_path == 0.2
  assert found == {
    'dyna_mm': (8, 6_000, (150, 1e-6), (1024,) * 3),
    'pastis_mm': (8, 20_000, (1500, 1e-6), (4096, 128, 128)),
    'bigearthnet_mm': (256, 100, (None, 0.0), (128, 128)),
  }


def test_a_fold_trains_on_three_and_is_tested_on_the_fifth():
  tested = []
  for fold in range(1, 6):
    data = configs.load(f'{PATHS["pastis_mm"]}:{fold}').data
    used = [*data.train_split, data.val_split, data.test_split]
    assert sorted(used) == [f'fold_{i}' for i in range(1, 6)]
    tested.append(data.test_split)
  assert len(set(tested)) == 5


def test_grids_of_dyna_mm_meet_though_its_sensors_have_one_pixel_size():
  config = configs.load(str(PATHS['dyna_mm']))
  config.model.size, config.data.batch_size = 'tiny', 1
  config.data.window.size = 128
  config.model.changes = {}
  built = finetune.model(config)
  found = finetune.objective(config, built, total_steps=1)
  assert {
    name: x.shape[1:3]
    for name, x in found.features.maps.items()
    if name.endswith(('final', 'fused'))
  } == dict.fromkeys(
    [*(f'{s}/final' for s in config.data.sensors), 'fused'],
    (128 // built.spec.stride('planetscope'),) * 2,
  )


@pytest.mark.parametrize(
  'override, words',
  [
    ('--config.data.sensors=("opt","thermal")', 'config.data.sensors'),
    ('--config.data.sensors=("opt","opt")', 'config.data.sensors'),
    ('--config.data.pair=after', 'config.data.pair'),
    ('--config.mixing.mixup=0.8', 'config.mixing.mixup'),
    ('--config.data.window.form=area', 'config.data.window.form'),
    ('--config.data.window.size=100', 'multiple of 32'),
    ('--config.data.dates.sentinel1_grd=0', 'config.data.dates.sentinel1_grd'),
    ('--config.model.system=mapex', 'config.data.sensors'),
    ('--config.model.system=ringmoe', 'config.data.sensors'),
  ],
)
def test_what_does_not_go_with_several_sensors_is_named(override, words):
  overrides = [override, '--config.model.size=tiny']
  config = configs.load(str(PATHS['pastis_mm']), overrides)
  config.model.changes = {}
  with pytest.raises(ValueError, match=words):
    finetune_encoder.spec_of(config)


def test_keys_of_several_sensors_are_refused_for_one():
  config = configs.load(str(PATHS['aid']), ['--config.data.target_size=8'])
  with pytest.raises(ValueError, match='target_size=8.*config.data.sensors'):
    finetune_encoder.spec_of(config)


def test_a_sensor_may_be_left_out_of_table_8():
  config = configs.load(
    str(PATHS['pastis_mm']), ['--config.data.sensors=("sentinel2_skysense",)']
  )
  assert finetune_encoder.spec_of(config).sensors == ('sentinel2_skysense',)
  assert finetune_tiles.dates(config) == {'sentinel2_skysense': 61}


def test_all_of_the_papers_tables_but_detection_are_there():
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
  with pytest.raises(ValueError, match='config.model.tokenizers'):
    finetune_encoder.spec_of(config)
