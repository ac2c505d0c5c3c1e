"""One self-contained HTML page: no network, no scripts, light and dark."""

from collections.abc import Mapping, Sequence
import dataclasses
import html
import json
import re
from typing import Any, Literal

from rsfm_jax.core import files
from rsfm_jax.plots import theme

Item = theme.Figure | str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
  """One heading of the page.

  Attributes:
    title: unique on the page; the navigation shows it.
    items: figures, or strings of trusted HTML (`tables.html_table`, `notes`,
      `json_block`).
    text: one plain paragraph that says how to read the items.
    layout: 'stack' gives each item the full width; 'grid' sets them side by
      side where the window is wide enough.
  """

  title: str
  items: Sequence[Item]
  text: str = ''
  layout: Literal['stack', 'grid'] = 'stack'

  @property
  def anchor(self) -> str:
    return re.sub(r'[^a-z0-9]+', '-', self.title.lower()).strip('-')


def notes(lines: Sequence[str]) -> str:
  """Plain sentences as an HTML list."""
  items = ''.join(f'<li>{html.escape(line)}</li>' for line in lines)
  return f'<ul>{items}</ul>'


def json_block(title: str, value: Any) -> str:
  """A folded, readable JSON document, such as a config."""
  text = html.escape(json.dumps(value, indent=2, default=str))
  summary = html.escape(title)
  return f'<details><summary>{summary}</summary><pre>{text}</pre></details>'


def key_values(values: Mapping[str, Any]) -> str:
  """A two-column table, such as the environment of a run."""
  rows = ''.join(
    f'<tr><th>{html.escape(str(name))}</th>'
    f'<td>{html.escape(str(value))}</td></tr>'
    for name, value in values.items()
  )
  return f'<div class="scroll"><table class="facts">{rows}</table></div>'


def write_report(
  path: files.Path,
  sections: Sequence[Section],
  *,
  title: str,
  summary: str,
  facts: Mapping[str, str] | None = None,
) -> None:
  """Writes the page, whole or not at all.

  Args:
    path: of the HTML file.
    sections: in reading order; those without items are left out.
    title: heading of the page.
    summary: the outcome in one or two plain sentences.
    facts: the few numbers to see first, label -> value as text.

  Raises:
    ValueError: two sections share an anchor.
  """
  sections = [section for section in sections if section.items]
  anchors = [section.anchor for section in sections]
  if len(set(anchors)) < len(anchors):
    raise ValueError(f'sections need different titles; anchors: {anchors}.')
  links = ''.join(
    f'<a href="#{section.anchor}">{html.escape(section.title)}</a>'
    for section in sections
  )
  tiles = ''.join(
    f'<div><dt>{html.escape(label)}</dt><dd>{html.escape(value)}</dd></div>'
    for label, value in (facts or {}).items()
  )
  files.write_text(
    path,
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    f'<title>{html.escape(title)}</title>'
    f'<style>{theme.css()}{CSS}</style></head><body>\n'
    f'<header><h1>{html.escape(title)}</h1>'
    f'<p class="summary">{html.escape(summary)}</p>'
    f'{f"<dl>{tiles}</dl>" if tiles else ""}<nav>{links}</nav></header>\n'
    f'<main>{"".join(map(_section, sections))}</main>\n</body></html>\n',
  )


def _section(section: Section) -> str:
  text = f'<p>{html.escape(section.text)}</p>' if section.text else ''
  items = ''.join(
    _item(item, section.title, prefix=f'{section.anchor}-{i}-')
    for i, item in enumerate(section.items)
  )
  return (
    f'<section id="{section.anchor}"><h2>{html.escape(section.title)}</h2>'
    f'{text}<div class="{section.layout}">{items}</div></section>\n'
  )


def _item(item: Item, label: str, *, prefix: str) -> str:
  if isinstance(item, str):
    return f'<div>{item}</div>'
  return f'<figure>{theme.svg(item, label=label, prefix=prefix)}</figure>'


CSS = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
  font:15px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
header,main{max-width:1104px;margin:0 auto;padding:0 24px}
header{padding-top:36px}
h1{font-size:27px;line-height:1.25;margin:0 0 10px;letter-spacing:-.01em}
h2{font-size:19px;margin:0 0 6px}
p{max-width:76ch;margin:0 0 14px}
section p,section ul{color:var(--muted)}
.summary{font-size:17px;margin-bottom:20px}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));
  margin:0 0 20px;border:1px solid var(--line);border-radius:8px;
  overflow:hidden;gap:1px}
dl>div{padding:12px 16px;box-shadow:0 0 0 1px var(--line)}
dt{font-size:13px;color:var(--muted)}
dd{margin:0;font-size:21px;font-weight:600;font-variant-numeric:tabular-nums}
nav{position:relative;display:flex;flex-wrap:wrap;gap:4px 18px;
  padding-bottom:18px;font-size:14px}
a{color:var(--series-0);text-underline-offset:3px}
section{border-top:1px solid var(--line);padding:26px 0 30px}
figure{margin:0;overflow-x:auto}
figure>svg{min-width:480px}
svg text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif
  !important}
svg image{image-rendering:pixelated}
.stack>*+*{margin-top:18px}
.grid>*{min-width:0}
.grid{display:grid;gap:22px 32px;align-items:start;
  grid-template-columns:repeat(auto-fit,minmax(min(460px,100%),1fr))}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:5px 18px 5px 0;text-align:left;font-weight:400;
  border-bottom:1px solid var(--line);white-space:nowrap}
thead th{color:var(--muted);font-size:13px}
.number{text-align:right}
.muted{color:var(--muted)}
.group th{padding-top:18px;font-weight:600}
.axis{padding-right:0;color:var(--muted);
  font-size:12px;vertical-align:bottom}
.axis span{float:right}
.results td:last-child,.results th:last-child{padding-right:0}
.results tbody th{white-space:normal;min-width:190px}
.best th,.best .number:not(.muted){font-weight:650}
.whisker{display:block}
.whisker line{stroke:var(--muted);stroke-width:2}
.whisker circle{fill:var(--muted)}
.best .whisker line{stroke:var(--series-0)}
.best .whisker circle{fill:var(--series-0)}
.facts th{color:var(--muted)}
.facts td{white-space:normal;overflow-wrap:anywhere}
details{border:1px solid var(--line);border-radius:8px;padding:8px 14px}
summary{cursor:pointer}
pre{overflow-x:auto;margin:10px 0 4px;
  font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media print{details{border:0}section{break-inside:avoid}}
"""
