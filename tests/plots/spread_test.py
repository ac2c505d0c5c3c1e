"""One panel a data set, one line a protocol, one point a row."""

import pytest

from rsfm_jax.plots import spread


def rows(datasets=('a', 'b'), protocols=('linear', 'knn', 'sweep')):
  return [
    {
      'name': name, 'dataset': d, 'protocol': p, 'value': 60 + i, 'low': 58.0,
      'high': 70.0,
    }
    for d in datasets
    for i, p in enumerate(protocols)
    for name in ('random init', 'whole')
  ]  # fmt: skip


def test_every_row_is_a_point_of_its_panel():
  drawn = spread.figure(rows())
  assert [axes.get_title('left') for axes in drawn.axes] == ['a', 'b']
  for axes in drawn.axes:
    assert len(axes.containers) == 6
    points = [c.lines[0].get_xydata()[0] for c in axes.containers]
    assert {round(x) for x, _ in points} == {60, 61, 62}
    assert {round(y) for _, y in points} == {0, 1, 2}
  ticks = [t.get_text() for t in drawn.axes[0].get_yticklabels()]
  assert ticks == ['linear', 'knn', 'sweep']


def test_rows_that_lack_something_are_named():
  with pytest.raises(ValueError, match='at least one row'):
    spread.figure([])
  bad = rows()
  del bad[1]['low']
  with pytest.raises(ValueError, match="'whole' lacks \\['low'\\]"):
    spread.figure(bad)
