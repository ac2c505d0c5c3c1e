"""Jobs and results as JSON lines, and pieces of the list of jobs."""

import pytest

from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.evaluate import sweep_rows

JOB = sweep_rows.Job('demo', 'whole', 'scenes', 'linear', 0.05, 2)


def result(job=JOB, *, version=1, **fields):
  row = rows_lib.Row(
    'demo: whole', 'scenes', 'linear', version, 'pretrained', 'accuracy',
    0.5, 0.4, 0.6, 'c0ffee', 'error', 10, 20, 0.1,
  )  # fmt: skip
  return sweep_rows.Result(**{'job': job, 'row': row, 'features': 'k'} | fields)


def test_round_trip_of_done_and_failed(tmp_path):
  failed = sweep_rows.Result(JOB, None, 'no such model')
  rows_lib.append(tmp_path / 'rows.jsonl', [result()])
  rows_lib.append(tmp_path / 'rows.1-of-2.jsonl', [failed])
  found = sweep_rows.read(tmp_path)
  assert sorted(found, key=lambda r: r.status) == [result(), failed]
  assert [r.to_json()['status'] for r in (result(), failed)] == [
    'done',
    'failed',
  ]


def test_damage_is_named(tmp_path):
  (tmp_path / 'rows.jsonl').write_text('{"format": "other"}\n')
  with pytest.raises(ValueError, match='rows.jsonl, line 1: A row of a sweep'):
    sweep_rows.read(tmp_path)


def test_words_for_people():
  assert str(JOB) == 'demo: whole, scenes, linear, 5 % of labels, seed 2'
  assert sweep_rows.Job('', 'raw', 'd', 'linear', 1.0, 0).name == 'raw'


def test_fits_are_the_grid_and_the_refit():
  fits = {
    protocol: sweep_rows.Job('', 'raw', 'd', protocol, 1.0, 0).fits
    for protocol in ('linear', 'galileo_knn5', 'torchgeobench_linear')
  }
  assert fits == {'linear': 9, 'galileo_knn5': 1, 'torchgeobench_linear': 41}


def test_only_the_same_features_and_rules_are_done():
  found = sweep_rows.Found([result()])
  assert found.is_done(JOB, 'k')
  assert not found.is_done(JOB, 'other features')
  old = sweep_rows.Found([result(version=0)])
  assert not old.is_done(JOB, 'k')
  failed = sweep_rows.Result(JOB, None, 'broken', 'k')
  assert not sweep_rows.Found([failed]).is_done(JOB, 'k')
  for order in ([failed, result()], [result(), failed]):
    assert sweep_rows.Found(order).is_done(JOB, 'k')


@pytest.mark.parametrize('count', (1, 2, 3, 7, 20))
def test_pieces_cover_all_jobs_once_and_split_into_pieces(count):
  jobs = list(range(11))
  pieces = [sweep_rows.Piece(i, count) for i in range(count)]
  assert sum((piece.of(jobs) for piece in pieces), []) == jobs
  for piece in pieces:
    parts = piece.parts(3)
    assert sum((part.of(jobs) for part in parts), []) == piece.of(jobs)
  assert len({piece.file('out') for piece in pieces}) == count
