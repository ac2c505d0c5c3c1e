"""Paths of a data set as templates: '{split}/A/{id}.png'.

A name in braces stands for anything within one folder or file name and may
come again, then for the same. `{band}` tells the files of one scene apart. Any
folders may lie above, so that an archive matches however it was unpacked.
"""

from collections.abc import Iterable, Mapping
import re
from typing import NamedTuple

from rsfm_jax.data import sources
from rsfm_jax.sensors import contract

BAND = 'band'
_FIELD = re.compile(r'\{(\w+)\}')


class Found(NamedTuple):
  """The files of one scene.

  Attributes:
    fields: what the names of the template stand for, without the band.
    files: ((band, path), ...), or (('', path),).
    size: in bytes.
  """

  fields: dict[str, str]
  files: tuple[tuple[str, str], ...]
  size: int

  @property
  def path(self) -> str:
    return self.files[0][1]


def fields(template: str) -> tuple[str, ...]:
  """Names of a template without the band, in order, each once."""
  names = dict.fromkeys(_FIELD.findall(template))
  return tuple(name for name in names if name != BAND)


def match(
  files: Iterable[tuple[str, str, int]],
  template: str,
  sensor: contract.Sensor,
) -> list[Found]:
  """The scenes that a template finds, sorted by their fields.

  Args:
    files: (path within the source, path to open, bytes).
    template: see the module.
    sensor: whose bands `{band}` stands for; other files are left alone.

  Raises:
    ValueError: two files are the same band of one scene.
  """
  pattern = _pattern(template)
  tokens = sources.band_tokens(sensor)
  groups: dict[tuple[str, ...], dict[str, tuple[str, int]]] = {}
  for inside, path, size in files:
    matched = pattern.fullmatch(inside)
    if not matched:
      continue
    values = matched.groupdict()
    band = ''
    if BAND in values:
      band = tokens.get(values.pop(BAND).lower(), '')
      if not band:
        continue
    group = groups.setdefault(tuple(values.values()), {})
    if band in group:
      raise ValueError(
        f'{path} and {group[band][0]} are both {template} of {values}; '
        'give the folder of one of them.'
      )
    group[band] = (path, size)
  names = fields(template)
  return [
    Found(
      dict(zip(names, key, strict=True)),
      tuple((band, path) for band, (path, _) in sorted(group.items())),
      sum(size for _, size in group.values()),
    )
    for key, group in sorted(groups.items())
  ]


def partner(
  found: Found, others: Mapping[tuple[str, ...], Found], template: str
) -> Found:
  """The scene of another template that has the same fields.

  Args:
    found: of the images.
    others: by the fields that both have, see `by_fields`.
    template: of the others, for messages.

  Raises:
    ValueError: there is none.
  """
  names = fields(template)
  key = tuple(found.fields[name] for name in names)
  if key not in others:
    wanted = fill(template, found.fields)
    raise ValueError(f'{found.path} has no {wanted} beside it.')
  return others[key]


def by_fields(found: Iterable[Found]) -> dict[tuple[str, ...], Found]:
  return {tuple(one.fields.values()): one for one in found}


def fill(template: str, values: Mapping[str, str]) -> str:
  """The template with its names replaced, those that are known."""
  return _FIELD.sub(lambda name: values.get(name[1], name[0]), template)


def _pattern(template: str) -> re.Pattern[str]:
  seen: set[str] = set()
  out = []
  for i, part in enumerate(_FIELD.split(template)):
    if i % 2 == 0:
      out.append(re.escape(part))
    elif part in seen:
      out.append(f'(?P={part})')
    else:
      seen.add(part)
      out.append(f'(?P<{part}>[^/]+)')
  return re.compile(f'(?:.*/)?{"".join(out)}')
