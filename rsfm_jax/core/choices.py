"""Errors that help: what was given, what is allowed, what was meant."""

from collections.abc import Iterable
import difflib


def suggest(given: str, allowed: Iterable[str]) -> str:
  """`' Did you mean "x"?'`, or an empty string when nothing is close."""
  close = difflib.get_close_matches(str(given), [str(a) for a in allowed], n=1)
  return f' Did you mean "{close[0]}"?' if close else ''


def check(given: str, allowed: Iterable[str], *, key: str) -> str:
  """Returns `given` if it is allowed, else raises naming the config key.

  Raises:
    ValueError: `given` is not in `allowed`.
  """
  allowed = list(allowed)
  if given not in allowed:
    raise ValueError(
      f'{key}={given!r} is not allowed; choose one of {allowed}.'
      + suggest(given, allowed)
    )
  return given
