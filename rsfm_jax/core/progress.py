"""Progress bars with an ETA for long work; silent off host 0."""

from collections.abc import Iterable
import os
import sys
from typing import Any

import tqdm


def bar(
  iterable: Iterable[Any] | None = None,
  *,
  total: int | None = None,
  what: str,
  unit: str = 'it',
  initial: int = 0,
) -> tqdm.tqdm:
  """A tqdm bar named `what`.

  On a terminal it is live; elsewhere (logs, CI) it prints at most one line in
  ten seconds. `RSFM_PROGRESS=0` turns it off.
  """
  live = sys.stderr.isatty()
  return tqdm.tqdm(
    iterable,
    total=total,
    desc=what,
    unit=unit,
    initial=initial,
    mininterval=0.2 if live else 10.0,
    dynamic_ncols=live,
    disable=os.environ.get('RSFM_PROGRESS') == '0',
  )
