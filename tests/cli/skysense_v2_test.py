"""A SkySense V2 run as small as it can be: meshes, resume, teacher, report."""

import json

import jax
import numpy as np
import pytest

from rsfm_jax.cli import main
from rsfm_jax.cli import models
from rsfm_jax.cli import training
from rsfm_jax.core import rng
from rsfm_jax.core import trees
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.sensors import class_table
from rsfm_jax.train import checkpoint

# Float32 sums over devices come in another order, and Sinkhorn's too.
REORDERED = 5e-4
CONFIG = """
from configs import skysense_base


def get_config():
  c = skysense_base.get_config(
      'tiny', sensors=('opt', 'sentinel1_grd'), channels=(3, 2),
      reduces=((True,) * 3, (False,) * 3), image_sizes=(32, 4), embed_dim=8,
      depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), experts=2, moe_layers=1,
      capacity_factor=2.0, prompts=1, fusion_dim=8, fusion_depth=1,
      fusion_heads=1, prototypes_dim=4,
  )
  c.objective.views.update(global_size=32, local_size=16, local_views=1)
  c.objective.update(
      hidden=8, bottleneck=4, outputs=8, clusters=2, queries=2, query_heads=1,
      regions=8, prototypes=2, class_table='classes', targets='centring',
  )
  c.optim.warmup_steps = 1
  c.data.tiles.sources = (('scenes', 'train', 1.0),)
  c.data.tiles.batch_size = 8
  c.data.tiles.tile = 64
  c.data.tiles.dates.sentinel1_grd = 2
  c.train.total_steps = 2
  c.train.log_steps = 1
  c.train.checkpoint_percent = 50.0
  return c
"""


def config():
  space = {}
  exec(CONFIG, space)
  return space['get_config']()


def batch_of(planned):
  draws = np.random.default_rng(0)

  def draw(like):
    if like.dtype == bool:
      values = np.ones(like.shape, bool)
    elif np.issubdtype(like.dtype, np.integer):
      values = draws.integers(0, 5, like.shape).astype(like.dtype)
    else:
      values = draws.standard_normal(like.shape).astype(like.dtype)
    return jax.device_put(values, like.sharding)

  return jax.tree.map(draw, planned.batch)


def steps(planned, step_fn, state, count):
  batch, losses = batch_of(planned), []
  for _ in range(count):
    state, metrics = step_fn(state, batch, rng.key_for(0))
    losses.append(trees.flatten(jax.device_get(metrics['losses'])))
  return state, losses


@pytest.fixture(scope='module')
def alone():
  planned = training.abstract(
    config(), mesh_sizes=dict(data=1), devices=jax.devices()[:1]
  )
  return planned, planned.compiled()


@pytest.mark.slow
def test_a_mesh_gives_the_losses_of_one_device(alone):
  planned, step_fn = alone
  _, want = steps(planned, step_fn, planned.plan.create(), 2)
  cut = training.abstract(config(), mesh_sizes=dict(data=2, fsdp=2, expert=2))
  _, got = steps(cut, cut.step_fn, cut.plan.create(), 2)
  assert {'mgcl', 'qsacl', 'ita', 'balance'} < set(want[0])
  for a, b in zip(want, got, strict=True):
    for name, value in a.items():
      np.testing.assert_allclose(
        b[name], value, rtol=REORDERED, atol=REORDERED, err_msg=name
      )
  specs = {
    name: tuple(leaf.sharding.spec)
    for name, leaf in trees.flatten(cut.state).items()
  }
  for root in ('params', 'ema', 'opt/mu'):
    assert specs[f'{root}/stage_3/run_0/ffn/routed/w_in'][1] == 'expert'
  assert specs['extra/prototypes'] == ('fsdp',)


@pytest.mark.slow
def test_a_resume_keeps_every_bit_of_teacher_prototypes_and_centres(
  alone, tmp_path
):
  planned, step_fn = alone
  whole, _ = steps(planned, step_fn, planned.plan.create(), 4)
  half, _ = steps(planned, step_fn, planned.plan.create(), 2)
  saved = checkpoint.Checkpoints(tmp_path)
  saved.save(2, half, {})
  restored = saved.restore(planned.state)
  saved.close()
  resumed, _ = steps(planned, step_fn, restored.state, 2)
  names = set(trees.flatten(whole))
  assert 'extra/prototypes' in names
  assert 'extra/centres/queries/query' in names
  assert any(name.startswith('ema/objective/') for name in names)
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)
  # And something was learnt of each.
  first = trees.flatten(planned.plan.create())
  for name in ('ema/norm/scale', 'extra/prototypes'):
    assert (trees.flatten(whole)[name] != first[name]).any()


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run of two steps on synthetic tiles, and its stores."""
  root = tmp_path_factory.mktemp('skysense')
  words = 'data synthesize --samples 120 --size 64 --dates 3 --workers 0'
  words += ' --sensors opt,sentinel1_grd --coarse sentinel1_grd=8'
  assert main.main([*words.split(), '--out', str(root / 'scenes')]) == 0
  words = 'data text-embeddings --fallback 6 --classes-of'
  out = ['--out', str(root / 'classes')]
  assert main.main([*words.split(), str(root / 'scenes'), *out]) == 0
  path = root / 'nano.py'
  path.write_text(CONFIG)
  words = ['pretrain', '--config', str(path), '--workdir', str(root / 'run')]
  assert main.main([*words, f'--config.data.root={root}']) == 0
  return root


@pytest.mark.slow
def test_the_teacher_is_probed_and_reported(trained, tmp_path, capsys):
  out = tmp_path / 'rows.jsonl'
  words = ['evaluate', '--store', str(trained / 'scenes'), '--out', str(out)]
  words += ['--checkpoint', f'mine={trained / "run"}']
  assert main.main([*words, '--protocols', 'galileo_knn5']) == 0
  words += ['--sensors', 'opt,sentinel1_grd', '--baselines', 'none']
  words += ['--protocols', 'galileo_knn5', '--prompts', 'drop']
  assert main.main(words) == 0
  fused = rows_lib.read(out)[-1]
  assert fused.name == 'mine, without prompts'
  assert fused.dataset == 'scenes (opt + sentinel1_grd)'
  teacher = models.open_model(trained / 'run')
  assert models.prototypes_of(teacher).shape == (8, 2, 4)
  heads = models.open_heads(trained / 'run')
  assert heads.objective['queries'] == 2
  assert heads.params['queries']['queries'].shape == (2, 8)
  student = models.open_model(trained / 'run', which='params')
  assert isinstance(teacher.model.spec, skysense_v2_spec.SkySenseV2Spec)
  assert rows_lib.read(out)[-1].checkpoint == teacher.content_hash
  assert teacher.content_hash != student.content_hash
  words = ['report', '--workdir', str(trained / 'run')]
  words += ['--store', f'opt={trained / "scenes"}']
  assert main.main(words) == 0
  page = (trained / 'run' / 'report.html').read_text()
  assert 'SkySense V2' in page and 'class_table' in page
  capsys.readouterr()
  words = ['inspect', '--json', '--checkpoint', str(trained / 'run')]
  assert main.main(words) == 0
  assert 'experts' in json.loads(capsys.readouterr().out)['parameters']


def test_bad_input_is_named_before_anything_is_compiled(
  trained, tmp_path, capsys
):
  def fails(*overrides):
    words = ['pretrain', '--config', str(trained / 'nano.py')]
    words += ['--workdir', str(tmp_path / str(len(list(tmp_path.iterdir()))))]
    words += [f'--config.data.root={trained}', *overrides]
    assert main.main(words) == 2
    return capsys.readouterr().err

  assert 'not a class table' in fails('--config.objective.class_table=nowhere')
  assert 'tile=60' in fails('--config.data.tiles.tile=60')
  # A table of as many classes whose names are those of other codes.
  names = ','.join(reversed(class_table.load(trained / 'classes').names))
  words = ['data', 'text-embeddings', '--classes', names, '--fallback', '6']
  assert main.main([*words, '--out', str(trained / 'turned')]) == 0
  said = fails('--config.objective.class_table=turned')
  assert 'class_table=turned and the land cover of the store scenes' in said
  assert 'does not fit the mask' in said
