"""The packing jobs of the real samples, on the samples themselves."""

import dataclasses

import numpy as np
import pytest

from rsfm_jax.data import pack
from rsfm_jax.data import readers
from rsfm_jax.data import real
from rsfm_jax.data import recipe as recipes
from rsfm_jax.data import sources
from rsfm_jax.data import store
from rsfm_jax.sensors import fingerprint


@pytest.fixture
def jobs(shared):
  return real.jobs(str(shared))


def packed(job, folder):
  report = pack.pack(job, folder)
  assert not report.bad
  return store.Store(folder)


def test_every_data_set_lists_its_scenes(jobs):
  counts = {
    name: len(
      sources.scenes(
        job.source,
        sensor=job.recipe.source,
        pattern=job.pattern,
        table=job.table,
      )
    )
    for name, job in jobs.items()
  }
  assert counts == {
    'opt_eurosat': 6003,
    'opt_ucmerced': 504,
    'opt_naip_new': 4,
    'opt_naip_old': 4,
    'ms_oscd': 14,
    'ms_ssl4eo_l1c': 2,
    'ms_ssl4eo_l2a': 2,
    'ms_sen12mscr': 6,
    'ms_bigearthnet': 4,
    'ms_eurosat': 3,
    'ms_worldcereal_patch': 1,
    'ms_worldcereal_cube': 1,
    'sar_l1_single_pol': 5,
    'sar_l1_quad_pol': 1,
    'sar_l2_ssl4eo': 2,
    'sar_l2_bigearthnet': 4,
    'sar_l2_sen12mscr': 1,
    'sar_l2_worldcereal': 1,
    'sar_l2_mstar': 800,
  }


def test_eurosat_keeps_its_own_splits_and_classes(jobs, tmp_path):
  job = dataclasses.replace(jobs['opt_eurosat'], table='', pattern='*_10*')
  recipe = dataclasses.replace(job.recipe, split=type(job.recipe.split)())
  made = packed(dataclasses.replace(job, recipe=recipe), tmp_path / 'few')
  assert made.read(0)['opt/image'].shape == (64, 64, 3)
  whole = sources.scenes(
    job.source, sensor=recipe.source, table=jobs['opt_eurosat'].table
  )
  splits = [scene.split for scene in whole]
  assert [splits.count(s) for s in ('train', 'val', 'test')] == [
    4206,
    600,
    1197,
  ]
  assert len(sources.classes(job.source, whole)) == 10


def test_multispectral_stores_are_reflectance_at_10_metres(jobs, tmp_path):
  for name, samples in (('ms_oscd', 224), ('ms_bigearthnet', 16)):
    made = packed(jobs[name], tmp_path / name)
    assert len(made) == samples
    mean = np.array(made.statistics_of('ms').mean)
    assert (mean > 0.02).all() and (mean < 0.4).all()
    assert made.column('crs')[0].startswith('EPSG:')
    assert None not in made.column('date') + made.column('lonlat')


def test_the_eurosat_tiffs_have_b8a_last(jobs, tmp_path):
  """All 13 bands in the order of the recipe keep their fingerprint."""
  job = jobs['ms_eurosat']
  recipe = recipes.Recipe(sensor='sentinel2_l1c', layout=job.recipe.layout)
  made = packed(dataclasses.replace(job, recipe=recipe), tmp_path / 'a')
  images = [made.read(i)['sentinel2_l1c/image'] for i in range(3)]
  contract = made.sensors['sentinel2_l1c']
  assert fingerprint.verdict(images, contract).ok
  wrong = dataclasses.replace(recipe, layout=readers.Layout())
  made = packed(dataclasses.replace(job, recipe=wrong), tmp_path / 'b')
  images = [made.read(i)['sentinel2_l1c/image'] for i in range(3)]
  assert not fingerprint.verdict(images, contract).ok


def test_complex_scenes_are_cropped_and_scaled(jobs, shared, tmp_path):
  one = packed(jobs['sar_l1_single_pol'], tmp_path / 'one')
  quad = packed(jobs['sar_l1_quad_pol'], tmp_path / 'quad')
  assert set(map(str, one.column('bands'))) == {"{'sar_l1': ['HH_I', 'HH_Q']}"}
  assert quad.column('bands') == [None] * len(quad)
  path = shared / 'data/slc_complex_samples/uavsar_winnipeg_HH.npy'
  scene = np.load(path, allow_pickle=False)
  i = one.column('id').index('uavsar_winnipeg_HH/96_32')
  arrays = one.read(i)
  np.testing.assert_array_equal(
    arrays['sar_l1/image'][..., 0], scene[96:160, 32:96].real
  )
  scale = np.sqrt(np.mean(np.abs(scene.astype(complex)) ** 2))
  np.testing.assert_allclose(arrays['sar_l1/scene_scale'], scale, rtol=1e-5)


def test_amplitudes_are_decibels_of_one_size(jobs, tmp_path):
  made = packed(jobs['sar_l2_bigearthnet'], tmp_path / 's1')
  found = made.statistics_of('sar_l2')
  assert -30 < found.mean[0] < -5 and found.maximum[0] < 20
  assert {i.rsplit('/', 2)[1] for i in made.column('id')} == {'VV', 'VH'}
  mstar = dataclasses.replace(
    jobs['sar_l2_mstar'], pattern='*__HB14*', table=''
  )
  recipe = dataclasses.replace(
    mstar.recipe, split=type(mstar.recipe.split)(kind='test')
  )
  made = packed(dataclasses.replace(mstar, recipe=recipe), tmp_path / 'mstar')
  shapes = {made.read(i)['sar_l2/image'].shape for i in range(len(made))}
  assert shapes == {(128, 128, 1)}
  assert made.statistics_of('sar_l2').maximum[0] <= 1e-5  # 255 is 0 dB.


def test_world_cereal_series_have_a_sample_per_date(jobs, tmp_path):
  made = packed(jobs['ms_worldcereal_cube'], tmp_path / 'cube')
  assert len(made) == 40  # Ten months of four chips; two months are empty.
  made = packed(jobs['sar_l2_worldcereal'], tmp_path / 's1')
  assert len(made) == 2 * 159
  assert -30 < made.statistics_of('sar_l2').mean[0] < -5
