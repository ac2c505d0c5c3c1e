"""Specs as JSON, as checkpoints and model folders carry them."""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar, Self

from rsfm_jax.core import choices


class JsonSpec:
  """What the frozen specs of all models share.

  Attributes:
    MODEL: name in the JSON and in `build.MODELS`.
    TITLE: name in messages.
  """

  MODEL: ClassVar[str]
  TITLE: ClassVar[str]

  def to_json(self) -> dict[str, Any]:
    return {'model': self.MODEL} | dataclasses.asdict(self)

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> Self:
    """Inverse of `to_json`.

    Raises:
      ValueError: unknown or missing keys.
    """
    value = {k: tuples(v) for k, v in value.items() if k != 'model'}
    known = {field.name for field in dataclasses.fields(cls)}
    for key in value:
      choices.check(key, known, key=f'key of a {cls.TITLE} spec')
    try:
      return cls(**value)
    except TypeError as error:
      raise ValueError(f'not a {cls.TITLE} spec: {error}') from error


def tuples(value: Any) -> Any:
  """Lists, as JSON has them, to tuples at any depth."""
  if isinstance(value, list | tuple):
    return tuple(tuples(v) for v in value)
  return value
