"""What an exported folder says of itself: its card and its parity report."""

from collections.abc import Mapping
import pathlib
from typing import Any

import jax

from rsfm_jax.cli import models
from rsfm_jax.core import files
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.export import folder as folders
from rsfm_jax.export import hub


def write(
  folder: pathlib.Path,
  title: str,
  opened: models.Opened,
  found: Mapping[str, Any],
  *,
  tolerance: float,
  licence: str,
) -> None:
  """parity.json and README.md.

  Args:
    folder: of the files.
    title: of the card.
    opened: what was exported.
    found: {file: `parity.errors`}.
    tolerance: that they were held to.
    licence: of the weights.
  """
  files.write_json(
    folder / 'parity.json',
    {
      'reference': f'the jitted model on {jax.default_backend()}',
      'what': 'largest absolute difference by file, batch size and output',
      'tolerance': tolerance,
      'errors': found,
    },
  )
  card = hub.card(
    title=title,
    spec=opened.model.spec.to_json(),
    params=opened.params,
    sensors=opened.sensors,
    names=[path.name for path in folder.iterdir()],
    origin=hub.Origin(
      opened.content_hash, record(opened).get('parent_hash', ''), opened.step
    ),
    licence=licence,
    metrics=_metrics(opened),
  )
  files.write_text(folder / 'README.md', card)


def record(opened: models.Opened) -> dict[str, Any]:
  """How the weights were made: that of their folder, or the run."""
  at = pathlib.Path(opened.path)
  if opened.step is None and folders.is_model(at):
    return files.read_json(at / 'record.json')
  return {'run': opened.path, 'step': opened.step}


def _metrics(opened: models.Opened) -> str:
  """Rows beside the weights that are of them, and their baselines."""
  path = pathlib.Path(opened.path) / 'rows.jsonl'
  if not path.is_file():
    return ''
  of = ('', opened.content_hash)
  found = [row for row in rows_lib.read(path) if row.checkpoint in of]
  own = any(row.checkpoint for row in found)
  return rows_lib.markdown(found) if own else ''
