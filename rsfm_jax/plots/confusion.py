"""Which classes are taken for which, and how good each of them is."""

from collections.abc import Sequence

import numpy as np

from rsfm_jax.evaluate import metrics
from rsfm_jax.plots import theme

ANNOTATE = 16  # Numbers inside cells stay readable up to this many classes.


@theme.styled
def figure(
  table: np.ndarray, *, classes: Sequence[str], title: str = ''
) -> theme.Figure:
  """A heat map of a confusion table: of each true class where it went.

  Args:
    table: i64[K, K], rows the truth.
    classes: K names.
    title: e.g. the model and the protocol.

  Raises:
    ValueError: a table that does not fit the names.
  """
  _check(table, classes, shape=(len(classes), len(classes)))
  total = table.sum(1, keepdims=True)
  shares = table / np.maximum(total, 1)
  count = len(classes)
  side = min(theme.WIDTH, 2.6 + 0.42 * count)
  out, grid = theme.panels(1, width=side + 0.6, height=side)
  axes = grid[0, 0]
  picture = axes.imshow(shares, cmap=theme.HEAT, vmin=0, vmax=1)
  axes.set_xticks(range(count), classes, rotation=90)
  axes.set_yticks(range(count), classes)
  axes.set_xlabel('predicted')
  axes.set_ylabel('true')
  axes.set_title(title)
  axes.grid(visible=False)
  if count <= ANNOTATE:
    for i, j in np.ndindex(*shares.shape):
      axes.text(
        j,
        i,
        f'{100 * shares[i, j]:.0f}',
        ha='center',
        va='center',
        fontsize=7.5,
        color='black' if shares[i, j] > 0.6 else 'white',
      )
  out.colorbar(picture, ax=axes, label='share of the true class', shrink=0.7)
  return out


def per_class(table: np.ndarray, *, classes: Sequence[str]) -> list[list[str]]:
  """Lines for `tables.html_of`: precision, recall, F1, IoU, support.

  Args:
    table: i64[K, K], or i64[L, 2, 2] of labels.
    classes: K or L names.

  Raises:
    ValueError: a table that does not fit the names.
  """
  _check(table, classes, shape=(len(classes), *table.shape[1:]))
  parts = metrics.per_class(table)
  head = ['class', 'precision', 'recall', 'F1', 'IoU', 'how often true']
  numbers = zip(parts.precision, parts.recall, parts.f1, parts.iou)
  return [
    head,
    *(
      [name, *(f'{value:.3f}' for value in values), f'{support:,}']
      for name, values, support in zip(classes, numbers, parts.support)
    ),
  ]


def _check(table, classes, *, shape) -> None:
  if table.shape != shape:
    raise ValueError(
      f'a table of shape {table.shape} does not fit {len(classes)} classes.'
    )
