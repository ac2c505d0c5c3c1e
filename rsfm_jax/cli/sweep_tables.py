"""Tables of a sweep: Markdown, CSV, HTML, and what leaderboards take."""

from collections.abc import Sequence
import itertools
import pathlib
from typing import Any

from rsfm_jax.core import files
from rsfm_jax.evaluate import aggregate
from rsfm_jax.evaluate import leaderboards
from rsfm_jax.evaluate import sweep_rows
from rsfm_jax.plots import label_fractions
from rsfm_jax.plots import report
from rsfm_jax.plots import tables

FILES = (
  'tables.md',
  'tables.csv',
  'tables.html',
  'geobench2.csv',
  'torchgeo_bench.csv',
)
SETTING = ('dataset', 'protocol', 'metric', 'label_fraction')
EXTRA = ('seeds', 'interval', 'n_train', 'version')


def summary(results: Sequence[sweep_rows.Result]) -> list[dict[str, Any]]:
  """A row for each name, data set, protocol and label fraction.

  Of several seeds it has their mean and the interval over seeds, of one the
  interval over test samples.
  """
  done = [r for r in results if r.row is not None]

  def cell(result):
    job = result.job
    return job.dataset, job.protocol, -job.label_fraction, job.name

  order = {cell(r): i for i, r in reversed(list(enumerate(done)))}
  done.sort(key=lambda r: (cell(r)[:3], order[cell(r)]))
  out = []
  for _, members in itertools.groupby(done, cell):
    members = list(members)
    rows = [m.row for m in members]
    job, row = members[0].job, rows[0]
    value, low, high = row.value, row.low, row.high
    if len(rows) > 1:
      value, low, high = aggregate.over_seeds([r.value for r in rows])
    share = f'{100 * job.label_fraction:g} % of labels'
    out.append(
      {
        'name': job.name,
        'dataset': job.dataset,
        'protocol': row.protocol,
        'metric': row.metric,
        'value': value,
        'low': low,
        'high': high,
        'label_fraction': job.label_fraction,
        'setting': share,
        'seeds': len(rows),
        'interval': 'seeds' if len(rows) > 1 else 'test samples',
        'n_train': row.n_train,
        'version': row.protocol_version,
        'runs': [r.value for r in rows],
      }
    )
  return out


def ranks(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Mean rank and IQM by name, over all settings and by protocol."""
  protocols = list(dict.fromkeys(row['protocol'] for row in rows))
  columns = {'all': rows} | {
    p: [row for row in rows if row['protocol'] == p] for p in protocols
  }
  out = {row['name']: {'name': row['name']} for row in rows}
  for column, members in columns.items():
    scores, lower = _scores(members)
    found, tasks = aggregate.mean_ranks(scores, lower_is_better=lower)
    for name, rank in found.items():
      out[name] |= {column: rank, f'{column} tasks': len(tasks)}
  scores, lower = _scores(rows)
  shared = set(aggregate.mean_ranks(scores)[1]) - set(lower)
  for name in out if shared else ():
    runs = [r['runs'] for r in rows if r['name'] == name and _task(r) in shared]
    out[name]['iqm'] = aggregate.stratified_iqm(runs)
  return sorted(out.values(), key=lambda row: row.get('all', float('inf')))


def _task(row) -> tuple[Any, ...]:
  return tuple(row[key] for key in SETTING)


def _scores(rows):
  """{name: {task: value}}, and the tasks where less is better."""
  scores: dict[str, dict[Any, float]] = {}
  lower = []
  for row in rows:
    scores.setdefault(row['name'], {})[_task(row)] = row['value']
    if row['metric'] in tables.LOWER_IS_BETTER:
      lower.append(_task(row))
  return scores, lower


def write(
  folder: pathlib.Path,
  results: Sequence[sweep_rows.Result],
  *,
  name: str,
  jobs: int,
  resamples: int,
) -> str:
  """Writes all of `FILES`; returns the Markdown.

  Args:
    folder: of the sweep.
    results: one a job.
    name: of the sweep.
    jobs: of the whole grid, whether they have a result or not.
    resamples: of the bootstrap of every row.
  """
  rows = summary(results)
  failed = [r for r in results if r.row is None]
  ranked = ranks(rows)
  said = (
    f'{name}: {len(results) - len(failed)} of {jobs} jobs done, '
    f'{len(failed)} failed.'
  )
  shown = [r | {'dataset': f'{r["dataset"]}, {r["setting"]}'} for r in rows]
  parts = [said]
  if rows:
    parts += [
      tables.markdown(shown),
      _RANKS,
      tables.markdown_of(_cells(ranked)),
    ]
  if failed:
    parts += ['Failed:', ''.join(f'* {r.job}: {r.error}\n' for r in failed)]
  text = '\n\n'.join(part.rstrip('\n') for part in parts) + '\n'
  files.write_text(folder / FILES[0], text)
  files.write_text(
    folder / FILES[1], tables.csv(rows, keys=SETTING, extra=EXTRA)
  )
  files.write_text(
    folder / FILES[3], leaderboards.geobench2(results, name=name)
  )
  files.write_text(
    folder / FILES[4],
    leaderboards.torchgeo_bench(results, resamples=resamples),
  )
  report.write_report(
    folder / FILES[2],
    _sections(shown, rows, ranked, failed),
    title=name,
    summary=said,
    facts={
      'Jobs': str(jobs),
      'Done': str(len(results) - len(failed)),
      'Failed': str(len(failed)),
    },
  )
  return text


_RANKS = (
  'Mean rank (1 is best) over the settings that all names have, all together '
  'and by protocol; IQM is the interquartile mean of the scores in those '
  'settings, with its interval over runs.'
)


def _cells(ranked: Sequence[dict[str, Any]]) -> list[list[str]]:
  columns = [
    key
    for key in dict.fromkeys(k for row in ranked for k in row)
    if key not in ('name', 'iqm') and not key.endswith(' tasks')
  ]
  counts = {
    c: max((row.get(f'{c} tasks', 0) for row in ranked), default=0)
    for c in columns
  }
  head = ['name', *(f'{c} ({counts[c]})' for c in columns), 'IQM']
  best = {
    c: min((row[c] for row in ranked if c in row), default=None)
    for c in columns
  }
  body = []
  for row in ranked:
    cells = [row['name']]
    for column in columns:
      text = f'{row[column]:.2f}' if column in row else ''
      stressed = column in row and row[column] == best[column]
      cells.append(f'**{text}**' if stressed else text)
    iqm = row.get('iqm')
    cells.append(
      f'{iqm.value:.3f} ({iqm.low:.3f} to {iqm.high:.3f})' if iqm else ''
    )
    body.append(cells)
  return [head, *body]


def fractions(rows: Sequence[dict[str, Any]]) -> report.Section:
  """Learning curves over label fractions of a `summary`."""
  return report.Section(
    title='Label fractions',
    items=label_fractions.figures(rows),
    text='Accuracy over how many labels there were to learn from; bands are '
    'the intervals of the results.',
    layout='grid',
  )


def _sections(shown, rows, ranked, failed) -> list[report.Section]:
  return [
    report.Section(
      title='Results',
      items=[tables.html_table(shown)] if shown else [],
      text='Frozen features. Bars are 95 % intervals: over seeds where there '
      'are several, else over test samples.',
    ),
    report.Section(
      title='Ranks',
      items=[tables.html_of(_cells(ranked))] if ranked else [],
      text=_RANKS,
    ),
    fractions(rows),
    report.Section(
      title='Failed',
      items=[report.notes([f'{r.job}: {r.error}' for r in failed])]
      if failed
      else [],
    ),
  ]
