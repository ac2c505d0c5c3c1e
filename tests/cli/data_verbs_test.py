"""`rsfm data pack | stats | inspect` from arguments to files."""

import argparse
from concurrent import futures
import contextlib
import json

import numpy as np
from PIL import Image
import pytest

from rsfm_jax.cli import data_inspect
from rsfm_jax.cli import data_pack
from rsfm_jax.cli import data_stats
from rsfm_jax.data import store
from tests.data import scene_files


def run(verb, *arguments):
  parser = argparse.ArgumentParser()
  verb.add_arguments(parser)
  return verb.run(parser.parse_args([str(a) for a in arguments]))


@pytest.fixture
def packed(tmp_path):
  image = scene_files.digital_numbers(13, 96, 96)
  scene_files.write_tiff(tmp_path / 'in' / 'S2_20200101.tif', image)
  out = tmp_path / 'out'
  assert 0 == run(
    data_pack,
    tmp_path / 'in',
    *('--sensor', 'sentinel2_l1c', '--out', out, '--chip', 32),
    *('--split', 'location', '--shares', '0.5,0,0.5', '--block_km', 1),
    *('--bands', 'B01,B02,B03,B04,B05,B06,B07,B08,B09,B10,B11,B12,B8A'),
    *('--licence', 'CC0'),
  )
  return out, image


def test_pack_from_the_command_line(packed):
  out, image = packed
  made = store.Store(out)
  assert set(made.column('licence')) == {'CC0'}
  row, column = map(int, made.column('id')[0].split('/')[1].split('_'))
  b8a = made.read(0)['sentinel2_l1c/image'][..., 8]
  expected = image[12, row : row + 32, column : column + 32]
  np.testing.assert_array_equal(b8a, expected)


def test_stats_print_and_recompute_a_split(packed, capsys):
  out, _ = packed
  split = store.Store(out).column('split')[0]
  capsys.readouterr()
  run(data_stats, out, '--json')
  whole = json.loads(capsys.readouterr().out)['sentinel2_l1c']
  run(data_stats, out, '--json', '--split', split)
  part = json.loads(capsys.readouterr().out)['sentinel2_l1c']
  share = store.Store(out).column('split').count(split) / len(store.Store(out))
  assert part['count'][0] == pytest.approx(share * whole['count'][0])
  run(data_stats, out, out)
  assert 'B8A' in capsys.readouterr().out
  with pytest.raises(ValueError, match='split of'):
    run(data_stats, out, '--split', 'tests')


def test_inspect_writes_a_sheet_and_prints_the_verdict(packed, capsys):
  out, _ = packed
  capsys.readouterr()
  run(data_inspect, out, '--samples', 4, '--verify')
  text = capsys.readouterr().out
  assert 'splits' in text and 'sentinel2_l1c: bands NOT as named' in text
  with Image.open(out / 'inspect_sentinel2_l1c.png') as picture:
    assert picture.size[0] > 1000


@pytest.mark.parametrize(
  'arguments, message',
  [
    ((), 'needs SOURCE and --sensor'),
    (('x', '--sensor', 'sentinel2_l1'), 'Did you mean "sentinel2_l1c"'),
    (('x', '--sensor', 'opt'), 'x is no folder'),
    (('x', '--recipe', 'real'), 'takes no SOURCE'),
    (
      ('x', '--sensor', 'opt', '--scheduler', 'tcp://h:1', '--workers', '3'),
      '--workers 3 are processes here',
    ),
    (('gs://b/in', '--sensor', 'opt'), 'nobody lists a bucket'),
    (('--recipe', 'real', '--shared', '/nowhere'), 'is not a folder'),
    (('--dataset', 'dubai'), '--dataset dubai needs --from FOLDER'),
    (
      ('--dataset', 'dubai', '--from', 'x', '--sensor', 'opt'),
      r"knows the rest itself .*\['sensor'\]",
    ),
    (('--dataset', 'dubay', '--from', 'x'), 'Did you mean "dubai"'),
    (('--dataset', 'dubai', '--from', '/nowhere'), '/nowhere is no folder'),
    (('x', '--sensor', 'opt', '--part'), '--part go with --dataset'),
  ],
)
def test_wrong_arguments_are_one_clear_error(tmp_path, arguments, message):
  with pytest.raises(ValueError, match=message):
    run(data_pack, *arguments, '--out', tmp_path / 'out')


def test_data_sets_are_listed_without_packing(capsys):
  assert run(data_pack, '--list') == 0
  assert '| eurosat_rgb | classes | opt | 10 |' in capsys.readouterr().out
  with pytest.raises(ValueError, match='needs --out'):
    run(data_pack, 'x', '--sensor', 'opt')


def test_a_data_set_is_packed_by_name(tmp_path):
  for i in range(2):
    picture = np.full((12, 12, 3), i, np.uint8)
    for name in ('A', 'B', 'label'):
      (tmp_path / 'in' / name).mkdir(parents=True, exist_ok=True)
      kept = picture[..., 0] * 255 if name == 'label' else picture
      Image.fromarray(kept).save(tmp_path / f'in/{name}/train_{i}.png')
  run(
    data_pack,
    *('--dataset', 'levir_cd', '--from', tmp_path / 'in', '--part'),
    *('--out', tmp_path / 'out', '--chip', 8, '--cut', 'centre'),
    *('--split', 'random', '--shares', '0,0,1', '--licence', 'mine'),
  )
  made = store.Store(tmp_path / 'out')
  assert set(made.column('split')) == {'test'}
  assert set(made.column('licence')) == {'mine'}
  assert made.read(1)['change'].shape == (8, 8)
  assert made.read(1)['change'].all() and not made.read(0)['change'].any()


def test_a_scheduler_gives_the_workers(tmp_path, monkeypatch):
  used = []

  @contextlib.contextmanager
  def connect(address):
    with futures.ThreadPoolExecutor(1) as pool:
      used.append((address, pool))
      yield pool

  monkeypatch.setattr(data_pack.cluster, 'connect', connect)

  def pack(*args, workers, **kwargs):
    used.append(workers)
    return data_pack.pack.Report(folder='out')

  monkeypatch.setattr(data_pack.pack, 'pack', pack)
  run(
    data_pack,
    *('x', '--sensor', 'opt', '--out', tmp_path / 'out'),
    *('--scheduler', 'tcp://10.0.0.1:8786'),
  )
  (address, pool), workers = used
  assert address == 'tcp://10.0.0.1:8786' and workers is pool


def test_a_bucket_is_no_place_for_a_store(tmp_path):
  for verb in (data_stats, data_inspect):
    with pytest.raises(ValueError, match='s3://b/s: a store .*mount-s3'):
      run(verb, 's3://b/s')
  with pytest.raises(ValueError, match='gs://b/s: a store .*copy it there'):
    run(data_pack, '--recipe', 'real', '--out', 'gs://b/s')


def test_pictures_do_not_go_into_a_bucket(packed):
  with pytest.raises(ValueError, match='gs://b/s: a picture '):
    run(data_inspect, packed[0], '--out', 'gs://b/s')


def test_the_real_recipe_completes_what_is_missing(shared, tmp_path, capsys):
  arguments = ('--recipe', 'real', '--shared', shared, '--out', tmp_path)
  run(data_pack, *arguments, '--only', 'ms_eurosat')
  assert '3 samples' in capsys.readouterr().out
  run(data_pack, *arguments, '--only', 'ms_e*')
  assert 'done before' in capsys.readouterr().out
  with pytest.raises(ValueError, match='names no store'):
    run(data_pack, *arguments, '--only', 'none')
