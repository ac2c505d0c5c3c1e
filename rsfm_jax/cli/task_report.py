"""What probes and fine-tuning leave in a workdir for its page."""

from collections.abc import Sequence
import io
import pathlib
from typing import Any

import numpy as np

from rsfm_jax.cli import models
from rsfm_jax.core import files
from rsfm_jax.evaluate import finetuned
from rsfm_jax.plots import confusion
from rsfm_jax.plots import predictions
from rsfm_jax.plots import report
from rsfm_jax.plots import tables
from rsfm_jax.sensors import statistics

CONFUSION = 'confusion.json'  # Tables of the test split.
EXAMPLES = 'examples.npz'  # Of the test split, with their sensor and classes.
COUNT = 8  # Examples that are kept.


def save_table(
  workdir: pathlib.Path,
  table: np.ndarray,
  *,
  classes: Sequence[str] | None,
  title: str,
) -> None:
  """Keeps a confusion table, see `metrics.confusion`, for the page."""
  if classes is None or len(classes) != len(table):
    classes = list(map(str, range(len(table))))
  entry = {'title': title, 'classes': list(classes), 'table': table.tolist()}
  files.write_json(workdir / CONFUSION, [entry])


def save_examples(
  workdir: pathlib.Path, found: finetuned.Examples, *, sensor: str, classes: int
) -> None:
  """Keeps predictions beside images and targets for the page."""
  buffer = io.BytesIO()
  np.savez_compressed(
    buffer, **found._asdict(), sensor=np.array(sensor), classes=classes
  )
  files.write_bytes(workdir / EXAMPLES, buffer.getvalue())


def images(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """{sensor: f32[N, H, W, C]}, normalised; the first date; {} for none."""
  if not (workdir / EXAMPLES).exists():
    return {}
  with np.load(workdir / EXAMPLES, allow_pickle=False) as held:
    shown = held['images']
    return {str(held['sensor']): shown[:, 0] if shown.ndim == 5 else shown}


def sections(
  workdir: pathlib.Path, opened: models.Opened
) -> list[report.Section]:
  """Confusion, classes, predictions: whatever of them there is."""
  entries: list[dict[str, Any]] = []
  if (workdir / CONFUSION).exists():
    entries = files.read_json(workdir / CONFUSION)
  items: list[report.Item] = []
  for entry in entries:
    table, classes = np.array(entry['table']), entry['classes']
    if table.ndim == 2:
      items.append(
        confusion.figure(table, classes=classes, title=entry['title'])
      )
    items.append(tables.html_of(confusion.per_class(table, classes=classes)))
  return [
    report.Section(
      title='Classes',
      items=items,
      text='Of the test split. Rows of the map are true classes, in % of '
      'each; below precision, recall, F1 and intersection over union of every '
      'class.',
    ),
    report.Section(
      title='Predictions',
      items=_predictions(workdir, opened),
      text='The first samples of the test split; pixels without a label are '
      'left out.',
    ),
  ]


def _predictions(
  workdir: pathlib.Path, opened: models.Opened
) -> list[report.Item]:
  if not (workdir / EXAMPLES).exists():
    return []
  with np.load(workdir / EXAMPLES, allow_pickle=False) as held:
    kept = {name: held[name] for name in held.files}
  sensor, shown = str(kept['sensor']), kept['images']
  if sensor in opened.statistics:
    shown = statistics.denormalise(shown, opened.statistics[sensor])
  return [
    predictions.figure(
      shown,
      kept['targets'],
      kept['found'],
      sensor=opened.sensors[sensor],
      classes=[str(i) for i in range(int(kept['classes']))],
    )
  ]
