"""What a fine-tuning on pixels leaves for its page."""

import types

import numpy as np
import pytest

from rsfm_jax.cli import task_report
from rsfm_jax.evaluate import finetuned
from rsfm_jax.plots import report
from rsfm_jax.sensors import catalogue


@pytest.fixture
def opened():
  sensors = {'opt': catalogue.get('opt')}
  return types.SimpleNamespace(sensors=sensors, statistics={})


@pytest.mark.parametrize('dates', [(), (2,)])
def test_examples_and_tables_become_sections(tmp_path, opened, dates):
  images = np.random.default_rng(0).normal(size=(3, *dates, 8, 8, 3))
  codes = np.arange(3 * 64).reshape(3, 8, 8).astype(np.uint8) % 2
  task_report.save_examples(
    tmp_path,
    finetuned.Examples(images, codes, 1 - codes),
    sensor='opt',
    classes=2,
  )
  task_report.save_table(
    tmp_path, np.eye(2, dtype=int), classes=None, title='m'
  )
  found = task_report.sections(tmp_path, opened)
  assert [len(section.items) for section in found] == [2, 1]
  page = tmp_path / 'page.html'
  report.write_report(page, found, title='t', summary='s')
  assert 'Predictions' in page.read_text()
  shown = task_report.images(tmp_path)['opt']
  np.testing.assert_array_equal(shown, images[:, 0] if dates else images)


def test_a_run_without_any_has_no_section(tmp_path, opened):
  found = task_report.sections(tmp_path, opened)
  assert not any(section.items for section in found)
  assert task_report.images(tmp_path) == {}
