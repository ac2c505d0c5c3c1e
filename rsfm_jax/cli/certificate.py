"""What a model loses without some of its inputs, and that masks hold.

Accuracy of a task for every subset of its sensors and of the groups of their
bands, by a probe that was fitted once on all inputs, which is what a model in
use meets when some go missing, and by one that was fitted on the subset. And a
check, on the same samples: what lies under a mask (absent sensors, bands,
pixels and dates; NaN, infinity, noise) changes no bit of any feature.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import numpy as np

from rsfm_jax.cli import frozen
from rsfm_jax.cli import models
from rsfm_jax.core import files
from rsfm_jax.core import memory
from rsfm_jax.data import adapt
from rsfm_jax.data import masked
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.evaluate import subsets
from rsfm_jax.models import clean
from rsfm_jax.plots import certificate as figures
from rsfm_jax.plots import report
from rsfm_jax.plots import tables
from rsfm_jax.sensors import band_groups

LEAKS = 6  # Exit code of a certificate that fails.
ALL, REFITTED = 'fitted on all inputs', 'fitted on the subset'
PIXELS = 0.25  # Share of the pixels that are hidden, beside subsets.


class Check(NamedTuple):
  """Whether something under the masks of a subset came through.

  Attributes:
    name: of the model.
    subset: what is there.
    fill: what lies under the masks; see `masked.Fill`.
    samples: of the test split.
    changed: of them, those of which some bit changed.
  """

  name: str
  subset: str
  fill: str
  samples: int
  changed: int


class Certificate(NamedTuple):
  rows: list[rows_lib.Row]
  checks: list[Check]

  @property
  def holds(self) -> bool:
    return not any(check.changed for check in self.checks)


class Task(NamedTuple):
  """A target whose inputs can be hidden.

  Attributes:
    to: the target.
    names: {sensor of the model: of the store}.
    groups: {sensor of the model: {group: channels of the store}}.
  """

  to: frozen.Target
  names: dict[str, str]
  groups: dict[str, dict[str, tuple[int, ...]]]

  def masked(self, some: subsets.Subset, **options: Any) -> Any:
    """The target of which a subset is there; options are those of `Mask`."""
    hidden = {
      self.names[sensor]: tuple(
        channel
        for group, channels in groups.items()
        if group not in some.present[sensor]
        for channel in channels
      )
      for sensor, groups in self.groups.items()
      if sensor in some.present
    }
    absent = [n for s, n in self.names.items() if s not in some.present]
    mask = masked.Mask(
      tuple(absent), {n: c for n, c in hidden.items() if c}, **options
    )
    to = self.to._replace(store=masked.MaskedStore(self.to.store, mask))
    return to._replace(missing_sensors='mask') if absent else to


def task(to: frozen.Target) -> Task:
  """Finds the groups of bands that a store has of a model's sensors."""
  names, groups = {}, {}
  for sensor in to.sensors:
    found = adapt.Adapter.of(
      to.store,
      sensor,
      statistics=to.statistics_of(sensor.name),
      missing_bands=to.missing_bands,
    )
    places = [found.columns[i] if i >= 0 else -1 for i in found.found.indices]
    held = {
      group: tuple(places[c] for c in channels if places[c] >= 0)
      for group, channels in band_groups.groups(sensor).items()
    }
    names[sensor.name] = found.name
    groups[sensor.name] = {group: c for group, c in held.items() if c}
  return Task(to, names, groups)


def certify(
  opened: models.Opened,
  of: Task,
  *,
  name: str,
  protocols: Sequence[str],
  seed: int = 0,
  **options: Any,
) -> Certificate:
  """Rows and checks of a model; options are those of its `describer`."""
  describe = of.to.describer(opened, **options)
  rows, checks, whole = [], [], None
  probe = functools.partial(
    frozen.rows_of,
    protocols=protocols,
    checkpoint=opened.content_hash,
    seed=seed,
  )
  for some in subsets.of(of.groups):
    to = of.masked(some)
    found = frozen.features(
      describe, to.batches, to, name=f'{name}, {some.name}'
    )
    whole = whole or found
    ways = {ALL: whole | {'test': found['test']}, REFITTED: found}
    for way, features in ways.items():
      if way == REFITTED and some.name == subsets.COMPLETE:
        continue  # The same probe.
      made = probe(features, to, name=f'{name}, {way}')
      rows += [_told(row, of.to.dataset, some, way) for row in made]
    checks += _checked(describe, of, some, name=name, subset=some.name)
  checks += _checked(
    describe,
    of,
    subsets.of(of.groups)[0],
    name=name,
    subset=f'{subsets.COMPLETE}, {PIXELS:.0%} of pixels hidden',
    pixels=PIXELS,
  )
  memory.trim()  # Of what compiling took.
  return Certificate(rows, checks)


def _told(
  row: rows_lib.Row, dataset: str, some: subsets.Subset, way: str
) -> rows_lib.Row:
  about = {'subset': some.name, 'probe': way, 'present': some.present}
  return dataclasses.replace(
    row,
    dataset=f'{dataset}, {some.name}',
    missing_bands='mask',
    chosen=row.chosen | about,
  )


def _checked(
  describe: Callable[[Any], Any],
  of: Task,
  some: subsets.Subset,
  *,
  name: str,
  subset: str,
  **options: Any,
) -> Iterator[Check]:
  """Fills what is hidden from a subset; options are those of `Mask`."""
  want = _under(describe, of, of.masked(some, **options), 'kept')
  for fill in masked.FILLS:
    to = of.masked(some, fill=fill, **options)
    # As bits: NaN that came through equals nothing, not even itself.
    got = _under(describe, of, to, fill)
    same = (got.view(np.uint32) == want.view(np.uint32)).all(1)
    yield Check(name, subset, fill, len(same), int((~same).sum()))


def _under(
  describe: Callable[[Any], Any], of: Task, to: Any, fill: masked.Fill
) -> np.ndarray:
  """f32[N, F] of the test split, with a fill under every mask of a batch."""
  out = []
  for batch in to.batches('test'):
    image, valid = batch['image'], batch['valid']
    if fill != 'kept' and isinstance(image, Mapping):  # Tiles.
      image = image | {
        'sensors': {
          name: _filled(entry, fill) for name, entry in image['sensors'].items()
        }
      }
    out.append(np.asarray(describe(image))[valid])
  return np.concatenate(out)


def _filled(entry: dict[str, Any], fill: masked.Fill) -> dict[str, Any]:
  """An entry of a batch of tiles with other values where nothing counts."""
  image = np.asarray(entry['image'])
  other = {'nan': np.nan, 'inf': np.inf, 'noise': 1e4}[fill]
  counts = clean.counts(entry)
  return entry | {'image': np.where(counts, image, np.float32(other))}


def markdown(found: Certificate) -> str:
  """Both tables, as plain text."""
  return (
    tables.markdown_of(_accuracy(found))
    + '\n'
    + tables.markdown_of(_masks(found))
  )


def _accuracy(found: Certificate) -> list[list[str]]:
  """A line a model, protocol and subset; a column a way to fit the probe."""
  lines: dict[tuple[str, ...], dict[str, str]] = {}
  for row in found.rows:
    way = row.chosen['probe']
    key = row.name.removesuffix(f', {way}'), row.dataset, row.protocol
    text = f'{100 * row.value:.1f} ({100 * row.low:.1f}-{100 * row.high:.1f})'
    lines.setdefault((*key, row.metric), {})[way] = text
  head = ['name', 'inputs', 'protocol', 'metric']
  body = [
    [*key, cells.get(ALL, ''), cells.get(REFITTED, '')]
    for key, cells in lines.items()
  ]
  return [[*head, f'{ALL}, %', f'{REFITTED}, %'], *body]


def _masks(found: Certificate) -> list[list[str]]:
  """A line a model and subset; a column a fill."""
  lines: dict[tuple[str, str], list[str]] = {}
  for check in found.checks:
    text = 'no bit changed'
    if check.changed:
      text = f'**{check.changed} of {check.samples} CHANGED**'
    lines.setdefault((check.name, check.subset), []).append(text)
  head = ['name', 'inputs', *(f'{fill} under masks' for fill in masked.FILLS)]
  return [head, *([*key, *cells] for key, cells in lines.items())]


def write(folder: pathlib.Path, found: Certificate, *, dataset: str) -> None:
  """rows.jsonl, checks.json and certificate.html."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'rows.jsonl').unlink(missing_ok=True)
  rows_lib.append(folder / 'rows.jsonl', found.rows)
  files.write_json(
    folder / 'checks.json', [check._asdict() for check in found.checks]
  )
  points = [
    row.to_json() | {k: row.chosen[k] for k in ('subset', 'probe')}
    for row in found.rows
  ]
  report.write_report(
    folder / 'certificate.html',
    [
      report.Section(
        title='Accuracy',
        items=[
          *(figures.figure(members) for members in figures.panels(points)),
          tables.html_of(_accuracy(found)),
        ],
        text='By what is there. A probe that was fitted on all inputs is what '
        'a model in use meets when some go missing; one that was fitted on '
        'the subset tells what its features still hold. Bars are 95 % '
        'bootstrap intervals over the test samples.',
      ),
      report.Section(
        title='Masks',
        items=[tables.html_of(_masks(found))],
        text='Features of the test split with other values wherever nothing '
        'counts, compared to the bit.',
      ),
    ],
    title=f'Missing inputs: {dataset}',
    summary=verdict(found),
  )


def verdict(found: Certificate) -> str:
  """One sentence."""
  changed = [check for check in found.checks if check.changed]
  if not changed:
    return (
      f'In {len(found.checks)} checks nothing under a mask changed a bit of '
      'a feature.'
    )
  return (
    f'{len(changed)} of {len(found.checks)} checks FAILED: what lies under a '
    'mask changes features.'
  )
