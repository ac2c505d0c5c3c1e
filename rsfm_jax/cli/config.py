"""Config files and overrides: from a path to sections of keyword arguments."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import sys
from typing import Any, TypeVar

from absl import flags
from ml_collections import config_dict
from ml_collections import config_flags

from rsfm_jax.core import choices

Spec = TypeVar('Spec')


def load(path: str, overrides: Sequence[str] = ()) -> config_dict.ConfigDict:
  """`get_config()` of a file, with `--config.a.b=value` overrides applied.

  Raises:
    ValueError: no such file, an unknown key (with "did you mean"), or a value
      of the wrong type.
  """
  if not pathlib.Path(path.split(':')[0]).is_file():
    raise ValueError(f'--config {path}: no such file.')
  for override in overrides:
    if not override.startswith('--config.') and override.startswith('-'):
      raise ValueError(
        f'unknown option {override!r}; overrides look like '
        '--config.train.total_steps=100.'
      )
  _importable(pathlib.Path(path.split(':')[0]))
  values = flags.FlagValues()
  argv = ['rsfm', f'--config={path}', *overrides]
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
  try:
    values(argv)
  except (flags.Error, AttributeError, KeyError, TypeError) as error:
    message = ' '.join(str(error).strip('"\'').split())
    raise ValueError(f'--config {path}: {message}') from error
  return values.config


def _importable(path: pathlib.Path) -> None:
  """Lets a file `import configs.base`, whatever started this process.

  `configs` is no part of the installed package: it is found beside the file,
  or in the checkout that this package runs from.
  """
  beside = [p.parent for p in path.resolve().parents if p.name == 'configs']
  for folder in (*beside, pathlib.Path(__file__).resolve().parents[2]):
    if str(folder) not in sys.path:
      sys.path.append(str(folder))


def to_json(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Plain nested dicts and lists, for `config.json`."""
  return config.to_dict()


def build(cls: type[Spec], section: Mapping[str, Any], *, key: str) -> Spec:
  """A spec dataclass from a section that holds exactly its arguments.

  Raises:
    ValueError: an unknown or a missing key, named with its section.
  """
  plain = section.to_dict() if hasattr(section, 'to_dict') else dict(section)
  known = {field.name for field in dataclasses.fields(cls)}
  for name in plain:
    if name not in known:
      raise ValueError(
        f'config.{key}.{name} is not a key of {cls.__name__}.'
        + choices.suggest(name, known)
      )
  try:
    return cls(**plain)
  except TypeError as error:
    raise ValueError(f'config.{key}: {error}') from error
