"""Host-0 logging to standard error."""

import logging
import sys

import jax

_LOGGER = logging.getLogger('rsfm')


def setup(level: str = 'INFO') -> None:
  """Sends the log of host 0 to standard error, one plain line an event."""
  if _LOGGER.handlers:
    return
  handler = logging.StreamHandler(sys.stderr)
  handler.setFormatter(logging.Formatter('%(levelname).1s %(message)s'))
  _LOGGER.addHandler(handler)
  _LOGGER.setLevel(level)
  _LOGGER.propagate = False


def info(message: str, *args: object) -> None:
  if jax.process_index() == 0:
    _LOGGER.info(message, *args)


def warning(message: str, *args: object) -> None:
  if jax.process_index() == 0:
    _LOGGER.warning(message, *args)
