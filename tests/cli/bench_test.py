"""`rsfm bench` lists and runs the programs of a checkout, and keeps rows."""

import json

import pytest

from rsfm_jax.cli import bench
from rsfm_jax.cli import main

PROGRAM = '''"""What {name} measures.

More words.
"""
import argparse, json, os, sys
parser = argparse.ArgumentParser()
parser.add_argument('--quick', action='store_true')
parser.add_argument('--json')
args = parser.parse_args()
import rsfm_jax  # Of the checkout that `rsfm bench` runs from.
print('interpreter', sys.executable)
if {fails} == 'early':
  sys.exit(3)
report = {{
  'benchmark': '{name}', 'date': 'then', 'quick': args.quick,
  'hardware': {{'platform': 'cpu', 'cores': 2}},
  'rows': [{{'size': 1}}, {{'size': 2, 'platform': 'gpu'}}],
}}
with open(args.json, 'w') as file:
  json.dump(report, file)
if {fails} == 'late':
  sys.exit(1)
'''


@pytest.fixture
def checkout(tmp_path, monkeypatch):
  """A checkout whose benchmarks are `add(name)`."""
  (tmp_path / 'benchmarks').mkdir()
  (tmp_path / 'pyproject.toml').touch()
  monkeypatch.setattr(bench, 'ROOT', tmp_path)
  monkeypatch.setenv('PYTHONPATH', str(main.rsfm_jax.__path__[0] + '/..'))

  def add(name, fails='never'):
    path = tmp_path / 'benchmarks' / f'{name}.py'
    path.write_text(PROGRAM.format(name=name, fails=repr(fails)))

  return add


def rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_without_a_name_it_lists(checkout, capsys):
  checkout('fast')
  checkout('slow')
  assert main.main(['bench']) == 0
  assert capsys.readouterr().out.splitlines() == [
    'fast         What fast measures.',
    'slow         What slow measures.',
  ]


def test_every_benchmark_of_this_checkout_says_what_it_measures(capsys):
  assert main.main(['bench']) == 0
  out = capsys.readouterr().out
  for name in ('moe_layer', 'train_step', 'input', 'checkpoint', 'compile'):
    assert f'\n{name} ' in f'\n{out}'
  assert all(len(line) > 30 for line in out.splitlines())


def test_rows_are_appended_with_date_and_hardware(checkout, tmp_path):
  checkout('fast')
  checkout('slow')
  path = tmp_path / 'new' / 'rows.jsonl'
  assert main.main(['bench', 'fast', '--quick', '--json', str(path)]) == 0
  about = {'benchmark': 'fast', 'date': 'then', 'quick': True, 'cores': 2}
  assert rows(path) == [
    about | {'platform': 'cpu', 'size': 1},
    about | {'platform': 'gpu', 'size': 2},  # A row knows better.
  ]
  assert main.main(['bench', 'all', '--json', str(path)]) == 0
  names = [(row['benchmark'], row['quick']) for row in rows(path)]
  assert (
    names
    == [('fast', True)] * 2 + [('fast', False)] * 2 + [('slow', False)] * 2
  )


def test_a_failure_is_told_and_the_others_run(checkout, tmp_path, capsys):
  checkout('a_broken', fails='early')
  checkout('b_partly', fails='late')
  checkout('c_good')
  path = tmp_path / 'rows.jsonl'
  assert main.main(['bench', 'all', '--json', str(path)]) == 2
  said = capsys.readouterr().err
  assert '2 of 3 benchmarks failed: a_broken, b_partly;' in said
  # What was measured before a failure is kept.
  assert {row['benchmark'] for row in rows(path)} == {'b_partly', 'c_good'}


def test_an_unknown_name_is_refused_before_anything_runs(checkout, capfd):
  checkout('fast')
  assert main.main(['bench', 'fast', 'fats']) == 2
  said = capfd.readouterr()
  assert 'Did you mean "fast"' in said.err and 'interpreter' not in said.out


def test_a_file_that_cannot_be_written_is_told_first(checkout, tmp_path, capfd):
  checkout('fast')
  assert main.main(['bench', 'fast', '--json', str(tmp_path)]) == 2
  said = capfd.readouterr()
  assert str(tmp_path) in said.err and 'interpreter' not in said.out


@pytest.mark.parametrize('beside', [None, 'other'])
def test_an_installed_package_has_no_benchmarks(
  tmp_path, monkeypatch, capsys, beside
):
  monkeypatch.setattr(bench, 'ROOT', tmp_path)
  if beside:  # Somebody else's folder of that name.
    (tmp_path / 'benchmarks').mkdir()
    (tmp_path / 'benchmarks' / 'other.py').touch()
  assert main.main(['bench']) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1
  assert 'part of the repository, not of the installed package' in lines[0]


def test_what_is_not_known_is_a_dash(capsys):
  bench.print_table(
    [{'a': 1.25, 'b': None}, {'a': 2}], {'A': '{a:.1f}', 'B': '{b:.1%}'}
  )
  assert capsys.readouterr().out.splitlines() == [
    '| A | B |',
    '| --- | --- |',
    '| 1.2 | - |',
    '| 2.0 | - |',
  ]


def test_a_report_holds_hardware_and_rows(tmp_path):
  path = tmp_path / 'report.json'
  args = bench.options('Words.').parse_args(['--quick', '--json', str(path)])
  bench.finish(args, 'x', [{'size': 1}])
  report = json.loads(path.read_text())
  assert report['benchmark'] == 'x' and report['quick'] is True
  assert report['date'].startswith('20') and report['rows'] == [{'size': 1}]
  assert report['hardware']['platform'] == 'cpu'
  assert report['hardware']['devices'] == 8
  assert {'device', 'cores', 'jax', 'python'} <= set(report['hardware'])
