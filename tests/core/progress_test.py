"""Bars that say what runs and for how long, and can be switched off."""

from rsfm_jax.core import progress


def test_a_bar_names_the_work_and_counts_it(capsys, monkeypatch):
  monkeypatch.setenv('RSFM_PROGRESS', '1')
  assert list(progress.bar(range(3), what='packing', unit='chip')) == [0, 1, 2]
  shown = capsys.readouterr().err
  assert 'packing: 100%' in shown and '3/3' in shown


def test_a_log_file_gets_few_lines(capsys, monkeypatch):
  monkeypatch.setenv('RSFM_PROGRESS', '1')
  list(progress.bar(range(10_000), what='packing'))
  assert capsys.readouterr().err.count('\r') <= 3


def test_a_resumed_run_starts_where_it_was(capsys, monkeypatch):
  monkeypatch.setenv('RSFM_PROGRESS', '1')
  with progress.bar(total=10, what='training', initial=6) as bar:
    bar.update()
  assert '7/10' in capsys.readouterr().err


def test_it_can_be_switched_off(capsys, monkeypatch):
  monkeypatch.setenv('RSFM_PROGRESS', '0')
  assert list(progress.bar(range(3), what='packing')) == [0, 1, 2]
  assert capsys.readouterr().err == ''
