"""Rows survive the file, killed writers and full disks."""

import dataclasses
import json
import os

import numpy as np
import pytest

from rsfm_jax.evaluate import rows

ROW = rows.Row(
  name='random init',
  dataset='toy',
  protocol='linear',
  protocol_version=1,
  normalisation='dataset',
  metric='accuracy',
  value=0.5,
  low=0.4,
  high=0.6,
  checkpoint='abc',
  missing_bands='error',
  n_train=10,
  n_test=5,
  seconds=0.1,
  chosen={'C': 1.0},
)


def test_round_trip_and_growth(tmp_path):
  path = tmp_path / 'deep' / 'rows.jsonl'
  other = dataclasses.replace(ROW, name='trained', predictions=np.arange(5))
  rows.append(path, [ROW])
  rows.append(path, [other])
  back = rows.read(path)
  assert back == [ROW, other]
  assert back[1].predictions is None
  assert set(json.loads(path.read_text().splitlines()[0])) >= {
    'name', 'dataset', 'protocol', 'metric', 'value', 'low', 'high',
  }  # fmt: skip


def test_a_half_line_of_a_killed_writer_is_no_row(tmp_path):
  path = tmp_path / 'rows.jsonl'
  rows.append(path, [ROW])
  with open(path, 'a') as file:
    file.write('{"format": "rsf')
  assert rows.read(path) == [ROW]
  rows.append(path, [ROW])
  assert rows.read(path) == [ROW, ROW]


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
  path = tmp_path / 'rows.jsonl'
  rows.append(path, [ROW])
  before = path.read_bytes()

  def full(descriptor):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='could not write .*rows.jsonl'):
    rows.append(path, [ROW])
  assert path.read_bytes() == before


def test_values_that_json_lacks_write_nothing(tmp_path):
  path = tmp_path / 'rows.jsonl'
  with pytest.raises(ValueError):
    rows.append(path, [ROW, dataclasses.replace(ROW, value=float('nan'))])
  assert not path.exists()


def test_damage_is_named_by_line(tmp_path):
  path = tmp_path / 'rows.jsonl'
  rows.append(path, [ROW])
  with open(path, 'a') as file:
    file.write('{"format": "rsfm_jax.row/1", "colour": 3}\n')
  with pytest.raises(ValueError, match='rows.jsonl, line 2'):
    rows.read(path)


def test_table_has_a_line_a_name_and_a_column_a_protocol():
  knn = dataclasses.replace(ROW, protocol='galileo_knn5')
  trained = dataclasses.replace(ROW, name='trained', value=0.87654)
  table = rows.markdown([ROW, knn, trained]).splitlines()
  assert len(table) == 4
  assert table[0].count('|') == 5
  assert '87.7 (40.0-60.0)' in table[3]
  assert table[3].endswith('|  |')  # No kNN of the trained one.
