"""One page that stands alone, says what it was given, and runs nothing."""

import csv
import html.parser
import io
import json
import re

import numpy as np
import pytest

from rsfm_jax.plots import curves
from rsfm_jax.plots import report
from rsfm_jax.plots import routing
from rsfm_jax.plots import tables
from rsfm_jax.plots import theme


def row(name, value, low=None, high=None, **fields):
  defaults = {'dataset': 'd', 'protocol': 'knn', 'metric': 'accuracy'}
  values = {'name': name, 'value': value, 'low': low, 'high': high}
  return defaults | values | fields


TABLE = [
  row('random', 0.5, 0.4, 0.6),
  row('trained', 0.8, 0.7, 0.9),
  row('random', 0.3, protocol='linear'),
  row('<script>', 0.1, 0.05, 0.2),
]


class Page(html.parser.HTMLParser):
  """Tags, ids and references of a page; checks that tags are balanced."""

  VOID = {'meta', 'br', 'img', 'link', 'path', 'use', 'image', 'circle', 'line'}

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.ids, self.links, self.data = [], [], [], [], []
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    for name, value in attributes:
      if name == 'id':
        self.ids.append(value)
      if name in ('href', 'xlink:href', 'src'):
        self.links.append(value)
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.handle_starttag(tag, attributes)
    if tag not in self.VOID:
      self.open.pop()

  def handle_endtag(self, tag):
    if tag not in self.VOID:
      assert self.open.pop() == tag

  def handle_data(self, data):
    self.data.append(data)


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  rows = [
    {'step': i, 'losses/opt': 1 / i, 'losses/ms': 2 / i} for i in (1, 2, 3)
  ]
  load = routing.load(np.eye(4)[None], sensors=tuple('abcd'), title='Experts')
  path = tmp_path_factory.mktemp('page') / 'made' / 'report.html'
  report.write_report(
    path,
    [
      report.Section(title='Results', items=[tables.html_table(TABLE)]),
      report.Section(title='Curves', items=[curves.figure(rows), load]),
      report.Section(title='Nothing', items=[]),
      report.Section(
        title='Config & notes',
        items=[
          report.json_block('config.json', {'model': {'size': 'tiny'}}),
          report.key_values({'jax': '0.10.2'}),
          report.notes(['a < b']),
        ],
        text='What <was> asked.',
        layout='grid',
      ),
    ],
    title='RingMoE & co',
    summary='It works.',
    facts={'accuracy': '0.8'},
  )
  return path.read_text()


def test_the_page_needs_nothing_from_elsewhere(page):
  parsed = Page(page)
  for link in parsed.links:
    assert link.startswith(('#', 'data:image/png;base64,'))
  assert not re.search(r'@import|url\((?!#)', page)
  assert {'script', 'link', 'iframe'}.isdisjoint(parsed.tags)


def test_ids_are_unique_and_every_reference_finds_one(page):
  parsed = Page(page)
  assert len(parsed.ids) == len(set(parsed.ids))
  inside = [link[1:] for link in parsed.links if link.startswith('#')]
  inside += re.findall(r'url\(#([^)]*)\)', page)
  assert len(inside) > 5 and set(inside) <= set(parsed.ids)


def test_the_page_says_what_it_was_given(page):
  text = ' '.join(Page(page).data)
  for part in ('RingMoE & co', 'It works.', 'What <was> asked.', 'a < b'):
    assert part in text
  assert '"size": "tiny"' in text and 'Nothing' not in text


def test_every_figure_is_named_for_readers_who_do_not_see_it(page):
  assert page.count('role="img" aria-label="Curves"') == 2


def test_colours_follow_the_reader_not_the_file(page):
  body = page[page.index('<body') :]
  assert 'var(--series-0)' in body and 'var(--ink)' in body
  assert not [light for light, _ in theme.COLOURS.values() if light in body]
  for name in theme.COLOURS:
    assert page.count(f'--{name}:') == 3  # Light, dark, print.


def contrast(one, other):
  """WCAG 2 contrast ratio of two '#rrggbb' colours."""

  def luminance(colour):
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(
      value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4
    )
    return linear @ [0.2126, 0.7152, 0.0722]

  low, high = sorted((luminance(one), luminance(other)))
  return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize('mode', [0, 1], ids=['light', 'dark'])
def test_text_and_lines_stand_out_in_both_modes(mode):
  paper = theme.COLOURS['paper'][mode]
  for name, pair in theme.COLOURS.items():
    if name not in ('paper', 'line'):
      assert contrast(pair[mode], paper) > 4.5, name


def test_no_two_theme_colours_are_the_same():
  for mode in (0, 1):
    assert len({pair[mode] for pair in theme.COLOURS.values()}) == 10


def test_a_sensor_keeps_its_colour():
  alone = theme.colours(['ms'])['ms']
  assert theme.colours(['balance', 'ms', 'opt'])['ms'] == alone
  together = theme.colours(['a', 'opt', 'b', 'ms'])
  assert len(set(together.values())) == 4


def test_the_same_figure_twice_is_the_same_text():
  def once():
    return theme.svg(
      curves.figure([{'step': 1, 'loss': 1.0}]), label=r'a "b" \1'
    )

  assert once() == once()
  assert r'aria-label="a &quot;b&quot; \1"' in once()


def test_two_sections_cannot_share_an_anchor(tmp_path):
  sections = [report.Section(title=t, items=['x']) for t in ('A b', 'a-B')]
  with pytest.raises(ValueError, match="'a-b', 'a-b'"):
    report.write_report(tmp_path / 'r.html', sections, title='t', summary='s')
  assert not (tmp_path / 'r.html').exists()


def test_only_comparable_rows_share_a_group():
  keys = [
    (key, [r['name'] for r in rows]) for key, rows in tables.groups(TABLE)
  ]
  assert keys == [
    (('d', 'knn', 'accuracy'), ['random', 'trained', '<script>']),
    (('d', 'linear', 'accuracy'), ['random']),
  ]


def test_names_cannot_inject_markup():
  text = tables.html_table(TABLE)
  assert '<script>' not in text and '&lt;script&gt;' in text


def test_a_missing_interval_is_said_and_not_drawn():
  text = tables.html_table([row('a', 0.5)])
  assert 'not measured' in text and '<line' not in text


def test_intervals_are_drawn_to_one_scale_per_group():
  text = tables.html_table([row('a', 0.5, 0.4, 0.6), row('b', 0.8, 0.7, 0.9)])
  ends = [
    tuple(map(float, pair))
    for pair in re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)"', text)
  ]
  (left, a_high), (b_low, right) = ends
  assert left == 5.0 and right == tables.WIDTH - 5.0
  assert (b_low - a_high) / (right - left) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize('metric, best', [('accuracy', 'b'), ('RMSE', 'a')])
def test_the_better_value_is_stressed(metric, best):
  rows = [row('a', 0.1, metric=metric), row('b', 0.2, metric=metric)]
  (found,) = re.findall(r'class="best"><th>(\w)', tables.html_table(rows))
  assert found == best


def test_a_row_that_lacks_a_key_is_named():
  with pytest.raises(ValueError, match="'a' lacks .*'dataset'"):
    tables.html_table([{'name': 'a', 'value': 1.0}])


def test_markdown_is_aligned_and_complete():
  lines = tables.markdown(TABLE).splitlines()
  assert len({len(line) for line in lines}) == 1 and len(lines) == 6
  assert '| **0.800** | 0.700 to 0.900 |' in lines[3]
  assert '| 0.500 ' in lines[2]
  assert '| 0.300 ' in lines[5]  # Alone in its group.


def test_csv_has_all_digits_and_marks_the_best():
  rows = [row('a', 1 / 3, 0.25, 0.5, n=7), row('b', 0.5, metric='rmse')]
  rows += [row('c', 0.7, metric='rmse'), row('d, "e"', 0.2)]
  lines = list(csv.reader(io.StringIO(tables.csv(rows, extra=('n',)))))
  assert lines[0] == [
    *('name', 'dataset', 'protocol', 'metric', 'value', 'low', 'high'),
    *('n', 'best'),
  ]
  found = {line[0]: line for line in lines[1:]}
  assert float(found['a'][4]) == 1 / 3 and found['a'][-2:] == ['7', '1']
  assert found['b'][5:] == ['', '', '', '1']
  assert found['c'][-1] == found['d, "e"'][-1] == '0'


def test_a_plain_table_stresses_and_escapes():
  lines = [['name', 'rank'], ['<a>', '**1.00**'], ['b', '2.00']]
  text = tables.html_of(lines)
  Page(text)
  assert '&lt;a&gt;' in text and '<strong>1.00</strong>' in text
  assert '>2.00<' in text


def test_a_config_survives_the_page(page):
  shown = re.search(r'<pre>(.*?)</pre>', page, re.DOTALL).group(1)
  assert json.loads(html.unescape(shown)) == {'model': {'size': 'tiny'}}
