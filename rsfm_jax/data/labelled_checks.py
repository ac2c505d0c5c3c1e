"""Whether a labelled store can be a benchmark: labels, classes, splits."""

from collections.abc import Sequence

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.data import splits as splits_lib
from rsfm_jax.data import store as stores


def check(
  store: stores.Store, splits: Sequence[str] = splits_lib.NAMES
) -> None:
  """Refuses a store that would give a number that means nothing.

  Args:
    store: of scenes with one class each, or bits.
    splits: that must be there, the first one to learn from.

  Raises:
    ValueError: a split or a label is missing, a label is no class, a class
      has no sample to learn from, or two splits share samples or ground.
  """
  rows = {split: store.indices(split) for split in splits}
  labels = _labels(store, rows)
  _check_classes(store, labels[splits[0]], splits[0])
  _check_apart(store, rows, column='id', what='sample')
  _check_apart(store, rows, column='bounds', what='ground')


def _labels(
  store: stores.Store, rows: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Labels by split, each held against the classes."""
  column, ids = store.column('label'), store.column('id')
  count = len(store.classes) if store.classes else None
  out = {}
  for split, indices in rows.items():
    for i in indices:
      label = column[i]
      if label is None:
        raise ValueError(
          f'{store.folder}: sample {ids[i]!r} of split {split!r} has no label.'
        )
      if not _fits(label, count):
        raise ValueError(
          f'{store.folder}: label {label!r} of sample {ids[i]!r} (split '
          f'{split!r}) is none of '
          + (f'the {count} classes, 0 to {count - 1},' if count else 'a class,')
          + ' nor one bit for each.'
        )
    out[split] = np.asarray([column[i] for i in indices])
  return out


def _fits(label: object, count: int | None) -> bool:
  if isinstance(label, list):
    right = count is None or len(label) == count
    return right and all(bit in (0, 1) for bit in label)
  whole = isinstance(label, int) and not isinstance(label, bool)
  return whole and label >= 0 and (count is None or label < count)


def _check_classes(store: stores.Store, labels: np.ndarray, split: str) -> None:
  """Every class has a sample to learn from."""
  if labels.ndim == 2:
    found = labels.any(0)
  else:
    count = len(store.classes) if store.classes else int(labels.max()) + 1
    found = np.bincount(labels, minlength=count) > 0
  if not found.all():
    names = store.classes or list(map(str, range(len(found))))
    raise ValueError(
      f'{store.folder}: split {split!r} has no sample of '
      f'{[names[k] for k in np.flatnonzero(~found)]}; nothing can learn them.'
    )


def _check_apart(
  store: stores.Store,
  rows: dict[str, np.ndarray],
  *,
  column: str,
  what: str,
) -> None:
  """No value of a column (with its CRS) stands in two splits."""
  choices.check(column, ('id', 'bounds'), key='column')
  values, crs, ids = (store.column(n) for n in (column, 'crs', 'id'))
  seen: dict[str, str] = {}
  for split, indices in rows.items():
    for i in indices:
      if values[i] is None:
        continue
      key = str(values[i]) if column == 'id' else f'{crs[i]} {values[i]}'
      if seen.setdefault(key, split) != split:
        raise ValueError(
          f'{store.folder}: splits {seen[key]!r} and {split!r} overlap: they '
          f'share the {what} of {ids[i]!r}.'
        )
