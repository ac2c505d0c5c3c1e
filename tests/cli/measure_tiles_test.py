"""Features of series and of several sensors, from stores to rows."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.cli import encoders
from rsfm_jax.cli import frozen
from rsfm_jax.cli import main
from rsfm_jax.cli import measure
from rsfm_jax.cli import measure_tiles
from rsfm_jax.cli import models
from rsfm_jax.core import once
from rsfm_jax.data import store as stores
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.models import build
from rsfm_jax.models import clean
from rsfm_jax.models import encoder
from rsfm_jax.models import sizes
from rsfm_jax.objectives import semantic
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import regions
from rsfm_jax.sensors import statistics

HR, SAR = 'opt', 'sentinel1_grd'
SENSORS = {name: catalogue.get(name) for name in (HR, SAR)}
SPEC = sizes.skysense_v2_spec(
  'tiny',
  sensors=(HR, SAR),
  channels=(3, 2),
  reduces=((True,) * 3, (False,) * 3),
  image_sizes=(32, 4),
  embed_dim=8,
  depths=(1, 1, 1, 1),
  heads=(1, 1, 1, 1),
  experts=2,
  moe_layers=1,
  prompts=1,
  fusion_dim=8,
  fusion_depth=1,
  fusion_heads=1,
  prototypes_dim=4,
)
# One choice in all tests is one program to compile.
STAGES = ('fused', f'{HR}/final', f'{SAR}/final')
PLACE = [7.0, 40.0]
# Sums over a padded batch come in another order, in float32.
REORDERED = 1e-5


def sample(i, *, dates=3):
  rng = np.random.default_rng(i)
  series = rng.normal(-12, 3, (dates, 8, 8, 2)).astype(np.float32)
  return {
    f'{HR}/image': rng.integers(0, 256, (64, 64, 3), np.uint8),
    f'{SAR}/image': series[0],
    f'{SAR}/series': series,
    f'{SAR}/days': (np.arange(dates) * 50).astype(np.int32),
  }


def pack(folder, arrays, **fields):
  """Samples of two classes in all splits; `fields` are the same for all."""
  with stores.StoreWriter(
    folder, sensors=SENSORS, classes=['a', 'b']
  ) as writer:
    for i, held in enumerate(arrays):
      split = ('train', 'val', 'test')[i % 3]
      row = {'id': f's{i}', 'split': split, 'label': i // 3 % 2} | fields
      writer.add(held, **row)
  return stores.Store(folder)


@pytest.fixture(scope='module')
def store(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tiles') / 'scenes'
  return pack(folder, map(sample, range(12)), lonlat=PLACE, date='2023-01-01')


@pytest.fixture(scope='module')
def opened(store):
  model = build.build(SPEC)
  return models.Opened(
    model,
    model.init(jax.random.key(0)),
    {},
    SENSORS,
    {name: store.statistics_of(name) for name in SENSORS},
    'hash',
    'run',
    None,
  )


@pytest.fixture(scope='module')
def prototypes():
  return jax.random.normal(jax.random.key(1), (16, 2, 4))


def described(opened, to, *, stages=STAGES, prompts='keep'):
  extract = measure_tiles.extractor(SPEC, stages, ('mean',), prompts)
  known = encoders.Known(opened.params, to.prototypes)
  return extract(known, to.batches('test')).values


def target(store, opened, names=(HR, SAR), **options):
  options = {'batch_size': 3} | options
  return measure_tiles.target(store, names, opened, **options)


def test_features_are_those_of_the_model_itself(store, opened, prototypes):
  to = target(store, opened)._replace(prototypes=prototypes)
  got = described(opened, to)
  region = regions.region_of(PLACE, 16)
  held = [store.read(int(i)) for i in store.indices('test')]
  images = {
    HR: np.stack([r[f'{HR}/image'][None] for r in held]),
    SAR: np.stack([r[f'{SAR}/series'] for r in held]),
  }
  images = {
    name: np.float32(statistics.normalise(image, opened.statistics[name]))
    for name, image in images.items()
  }
  days = {HR: np.zeros((4, 1), int), SAR: np.array([[0, 50, 100]] * 4)}
  apply = lambda params, images, context: opened.model.apply(
    params, images, days=days, prototypes=context
  )
  out = once.jit(apply)(
    opened.params, images, jnp.stack([prototypes[region]] * 4)
  )
  want = [
    out.fused.mean((1, 2)),
    out.features[HR].mean((1, 2, 3)),
    out.features[SAR].mean((1, 2, 3)),
  ]
  np.testing.assert_allclose(
    got, np.concatenate(want, -1), rtol=REORDERED, atol=REORDERED
  )


def test_one_sensor_alone_is_a_series_on_its_own_grid(store, opened):
  to = target(store, opened, (SAR,))
  assert (to.tile, to.dates, to.factors) == (8, {SAR: 3}, {SAR: 1})
  few = target(store, opened, (SAR,), dates=2)
  assert few.dates == {SAR: 2}
  out = described(opened, to, stages=('fused', f'{SAR}/stage_2'))
  assert out.shape == (4, SPEC.fusion_dim + SPEC.dim(2))
  first = sample(2)[f'{SAR}/series'][[0, 2]]
  entry = next(few.batches('test'))['image']['sensors'][SAR]
  np.testing.assert_allclose(
    entry['image'][0],
    statistics.normalise(first, opened.statistics[SAR]),
    rtol=1e-5,
  )


@pytest.mark.parametrize('validity', ['series_valid', 'nan'])
def test_what_lies_under_a_mask_changes_no_bit(
  tmp_path, opened, prototypes, validity
):
  """NaN pixels, and whole dates of them, beside zeros in their place."""
  seen = np.random.default_rng(0).random((3, 8, 8)) > 0.4
  seen[1] = False
  found = {}
  for fill in (0.0, np.nan, 1e30):
    if validity == 'nan' and fill != 0:
      fill = {True: np.nan, False: np.inf}[bool(np.isnan(fill))]
    made = []
    for i in range(3):
      held = sample(i)
      series = np.where(seen[..., None], held[f'{SAR}/series'], fill)
      series = series.astype(np.float32)
      held |= {f'{SAR}/series': series, f'{SAR}/image': series[0]}
      if validity == 'series_valid' or fill == 0:
        held[f'{SAR}/series_valid'] = seen
      made.append(held)
    store = pack(tmp_path / str(fill), made, lonlat=PLACE)
    to = target(store, opened)._replace(prototypes=prototypes)
    found[str(fill)] = described(opened, to)
  first, *others = found.values()
  assert np.isfinite(first).all() and len(others) == 2
  for other in others:
    np.testing.assert_array_equal(other, first)


def test_an_encoder_sees_nothing_under_its_masks(store, opened, prototypes):
  """Whoever made the batch: dates, bands, pixels and rows do not count."""
  to = target(store, opened)._replace(prototypes=prototypes)
  inputs = next(to.batches('test'))['image']
  entry = inputs['sensors'][SAR]
  entry['date_valid'][0, 1] = False
  entry['pixel_valid'][:, :, 2:5] = False
  entry['band_valid'][1, 0] = False
  inputs['sensors'][HR]['valid'][2] = False
  extract = measure_tiles.extractor(SPEC, STAGES, ('mean',), 'keep')
  known = encoders.Known(opened.params, prototypes)
  found = []
  for fill in (0.0, np.nan, np.inf):
    for entry in inputs['sensors'].values():
      counts = clean.counts(entry)
      entry['image'] = np.where(counts, entry['image'], np.float32(fill))
    found.append(np.asarray(extract.describe(known, inputs)))
  assert np.isfinite(found[0]).all()
  np.testing.assert_array_equal(found[1], found[0])
  np.testing.assert_array_equal(found[2], found[0])


def test_prototypes_serve_samples_of_a_known_region_alone(
  tmp_path, store, opened, prototypes
):
  nowhere = pack(tmp_path / 'nowhere', map(sample, range(12)))
  for held, same in ((nowhere, True), (store, False)):
    without = target(held, opened)
    with_ = without._replace(prototypes=prototypes)
    a, b = described(opened, without), described(opened, with_)
    assert (a == b).all() == same
    assert np.isfinite(b).all()


def test_a_random_start_has_no_prototypes_of_a_run(opened):
  start = measure.random_init(opened._replace(step=3), seed=0)
  assert models.prototypes_of(start) is None


def test_dates_that_are_not_known_get_no_code(tmp_path, store, opened):
  undated = [sample(i) for i in range(12)]
  for held in undated:
    del held[f'{SAR}/days']
  other = pack(tmp_path / 'undated', undated)
  a, b = (described(opened, target(s, opened)) for s in (store, other))
  assert np.isfinite(b).all() and (a != b).any()


def test_prompts_can_be_dropped(store, opened):
  to = target(store, opened)
  assert (described(opened, to) != described(opened, to, prompts='drop')).any()
  with pytest.raises(ValueError, match='--prompts drop: the model has no'):
    encoders.of_tiles(sizes.skysense_v2_spec('tiny', prompts=0), 'drop')


def test_samples_that_lack_a_sensor_are_refused_or_masked(tmp_path, opened):
  made = [sample(i) for i in range(6)]
  for name in ('image', 'series', 'days'):
    del made[2][f'{SAR}/{name}']
  store = pack(tmp_path / 's', made)
  with pytest.raises(ValueError, match=f"'s2'.* no {SAR}"):
    described(opened, target(store, opened))
  to = target(store, opened, missing_sensors='mask')
  out = described(opened, to)
  assert np.isfinite(out).all()
  lacking = out[:, SPEC.fusion_dim + SPEC.dim(-1) :]
  assert (lacking[0] == 0).all() and (lacking[1] != 0).any()


def test_queries_share_one_look_over_the_fused_grid(store, opened):
  made = semantic.Queries(3, SPEC.fusion_dim, 2, key=jax.random.key(2))
  params = nnx.to_pure_dict(nnx.split(made)[1])
  inputs = next(target(store, opened).batches('test'))['image']
  look = encoders.of_queries(SPEC, query_heads=2)
  known = encoders.Known(opened.params, None)
  maps = once.jit(look)(known, params, inputs)
  assert maps.shape == (3, 3, 4, 4)  # 64 pixels of which 16 make a token.
  np.testing.assert_allclose(maps.sum((2, 3)), 1, rtol=1e-5)
  assert np.ptp(maps) > 0


def test_models_and_raw_statistics_become_rows(store, opened):
  to = target(store, opened)
  options = {'protocols': ('galileo_knn5',)}
  rows = frozen.model_rows(opened, to, name='mine', **options)
  rows += frozen.baseline_rows(target(store, None), protocols=('galileo_knn5',))
  assert [row.name for row in rows] == [
    'mine',
    'raw statistics',
    'raw statistics gradients',
  ]
  assert {row.dataset for row in rows} == {f'scenes ({HR} + {SAR})'}
  assert rows[0].checkpoint == 'hash'
  assert [row.normalisation for row in rows[:2]] == ['pretrained', 'dataset']


def test_the_verb_probes_all_sensors_and_dates(
  store, opened, tmp_path, monkeypatch
):
  monkeypatch.setattr(models, 'open_model', lambda path, which: opened)
  out = tmp_path / 'rows.jsonl'
  words = ['evaluate', '--store', str(store.folder), '--out', str(out)]
  words += ['--sensors', f'{HR},{SAR}', '--checkpoint', 'mine=somewhere']
  words += ['--protocols', 'galileo_knn5', '--baselines', 'raw']
  assert main.main([*words, '--batch_size', '3', '--dates', '3']) == 0
  rows = rows_lib.read(out)
  assert [row.name for row in rows] == [
    'raw statistics',
    'raw statistics gradients',
    'mine',
  ]
  assert {row.dataset for row in rows} == {f'scenes ({HR} + {SAR})'}
  assert {row.normalisation for row in rows} == {'pretrained'}


def test_a_certificate_of_sensors_and_polarisations(
  store, opened, tmp_path, monkeypatch
):
  monkeypatch.setattr(models, 'open_model', lambda path, which: opened)
  words = ['evaluate', '--store', str(store.folder), '--batch_size', '3']
  words += ['--sensors', f'{HR},{SAR}', '--checkpoint', 'mine=somewhere']
  words += ['--protocols', 'galileo_knn5', '--dates', '3']
  words += ['--certificate', str(tmp_path)]
  assert main.main(words) == 0
  rows = rows_lib.read(tmp_path / 'rows.jsonl')
  names = list(dict.fromkeys(row.chosen['subset'] for row in rows))
  assert names[:3] == ['all', HR, SAR]
  assert names[-2:] == [f'{SAR}: VV', f'{SAR}: VH'] and len(names) == 3 + 6 + 2
  # An encoder that looks under the masks of a batch is found out.
  blind = lambda inputs: np.nan_to_num(
    inputs['sensors'][SAR]['image'].sum((1, 2, 3))
  )
  monkeypatch.setattr(measure_tiles.Target, 'describer', lambda *a, **k: blind)
  assert main.main(words) == 6


def test_means_are_over_the_dates_that_count():
  values = jnp.arange(12.0).reshape(2, 3, 2)
  valid = jnp.array([[True, False, True], [False] * 3])
  got = encoder.over_dates(jnp.where(valid[..., None], values, jnp.nan), valid)
  np.testing.assert_array_equal(got, [[2.0, 3.0], [0.0, 0.0]])


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'names': (HR, 'sentinel')}, '--sensors'),
    ({'fit': 'resize', 'size': 32}, '--fit of --sensors'),
    ({'fit': 'crop'}, '--fit crop does not go with --size None'),
    ({'dates': 0}, '--dates 0'),
  ],
)
def test_bad_targets_are_named(store, opened, options, message):
  with pytest.raises(ValueError, match=message):
    target(store, opened, **options)


def test_bad_requests_are_named(store, opened, tmp_path):
  to = target(store, opened)
  options = {'name': 'mine', 'protocols': ('galileo_knn5',)}
  with pytest.raises(ValueError, match='--views d4 is not for --sensors'):
    frozen.model_rows(opened, to, views='d4', **options)
  with pytest.raises(ValueError, match='Did you mean "fused"'):
    frozen.model_rows(opened, to, stages=('fusd',), **options)
  plain = build.build(sizes.ringmoe_spec('tiny'))
  with pytest.raises(ValueError, match='--sensors needs a SkySense V2'):
    target(store, opened._replace(model=plain))
  large = target(store, opened, fit='crop', size=128)
  with pytest.raises(ValueError, match='128 x 128 pixels does not fit'):
    described(opened, large)
  only = pack(tmp_path / 'only', [{f'{HR}/image': sample(0)[f'{HR}/image']}])
  with pytest.raises(ValueError, match=rf"no sample has \['{SAR}'\]"):
    target(only, opened)
