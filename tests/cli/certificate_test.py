"""`rsfm evaluate --certificate`: what is lost, and what comes through."""

import json

import pytest

from rsfm_jax.cli import certificate
from rsfm_jax.cli import main
from rsfm_jax.cli import measure
from rsfm_jax.data import adapt
from rsfm_jax.data import store as store_lib
from rsfm_jax.evaluate import rows as rows_lib

SUBSETS = ['all', 'ms: visible', 'ms: near infrared']
FITTED, REFITTED = certificate.ALL, certificate.REFITTED


@pytest.fixture(scope='module')
def certify(trained, stores):
  """`certify(folder, *options)` -> exit code, of the trained RingMoE."""

  def run(folder, *options):
    words = ['evaluate', '--store', str(stores / 'scenes'), '--sensor', 'ms']
    words += ['--checkpoint', f'mine={trained}', '--certificate', str(folder)]
    return main.main([*words, '--protocols', 'galileo_knn5', *options])

  return run


def test_every_subset_has_a_row_of_each_probe_and_masks_hold(
  certify, tmp_path, capsys
):
  assert certify(tmp_path) == 0
  rows = rows_lib.read(tmp_path / 'rows.jsonl')
  found = [(r.chosen['subset'], r.chosen['probe']) for r in rows]
  assert found == [
    ('all', FITTED),
    *((name, way) for name in SUBSETS[1:] for way in (FITTED, REFITTED)),
  ]
  assert {row.missing_bands for row in rows} == {'mask'}
  assert rows[1].dataset == 'scenes, ms: visible'
  assert rows[1].chosen['present'] == {'ms': ['visible']}
  assert all(row.low <= row.value <= row.high for row in rows)
  assert len({row.value for row in rows}) > 1
  checks = json.loads((tmp_path / 'checks.json').read_text())
  subsets = [*SUBSETS, 'all, 25% of pixels hidden']
  assert [(c['subset'], c['fill']) for c in checks] == [
    (subset, fill) for subset in subsets for fill in ('nan', 'inf', 'noise')
  ]
  assert {(c['samples'], c['changed']) for c in checks} == {(24, 0)}
  said = capsys.readouterr().out
  assert 'nothing under a mask changed a bit' in said
  assert '| scenes, ms: visible' in said
  page = (tmp_path / 'certificate.html').read_text()
  assert '<svg' in page and 'http://' not in page.replace('http://www.w3', '')


def test_a_mask_that_leaks_is_told_and_fails(
  certify, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(adapt.Adapter, '_present', lambda self, record: None)
  assert certify(tmp_path) == certificate.LEAKS == 6
  checks = json.loads((tmp_path / 'checks.json').read_text())
  changed = {c['subset'] for c in checks if c['changed']}
  assert changed == set(SUBSETS[1:])  # With all bands nothing is hidden.
  said = capsys.readouterr().out
  assert 'CHANGED' in said and 'checks FAILED' in said


def test_the_whole_subset_is_what_evaluate_measures(trained, stores, tmp_path):
  out = tmp_path / 'rows.jsonl'
  words = ['evaluate', '--store', str(stores / 'scenes'), '--sensor', 'opt']
  words += ['--checkpoint', f'mine={trained}', '--protocols', 'galileo_knn5']
  whole = [*words, '--baselines', 'none', '--out', str(out)]
  assert main.main(whole) == 0
  assert main.main([*words, '--certificate', str(tmp_path / 'c')]) == 0
  (row,) = rows_lib.read(out)
  first, *others = rows_lib.read(tmp_path / 'c' / 'rows.jsonl')
  assert (first.value, first.low) == (row.value, row.low)
  # All bands of one part of the spectrum: each is a group.
  assert {r.chosen['subset'] for r in others} >= {'opt: red', 'opt: red, blue'}


def test_groups_are_channels_of_the_store(stores):
  store = store_lib.Store(stores / 'scenes')
  task = certificate.task(measure.target(store, 'ms', None))
  assert task.names == {'ms': 'ms'}
  assert task.groups == {'ms': {'visible': (0, 1, 2), 'near infrared': (3,)}}


def test_a_certificate_needs_a_model(stores, tmp_path, capsys):
  words = ['evaluate', '--store', str(stores / 'scenes')]
  assert main.main([*words, '--certificate', str(tmp_path / 'no')]) == 2
  assert '--certificate needs a --checkpoint' in capsys.readouterr().err
  assert not (tmp_path / 'no').exists()
