"""What the documents show is what the programs take."""

import ast
from collections.abc import Iterator
import pathlib
import re
import shlex

import pytest

from rsfm_jax.cli import main

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
PAGES += sorted((ROOT / 'experiments').glob('*/README.md'))


def blocks(page: pathlib.Path, language: str) -> list[str]:
  return re.findall(rf'```{language}\n(.*?)```', page.read_text(), re.DOTALL)


def commands(page: pathlib.Path) -> Iterator[list[str]]:
  """Words of every `rsfm ...` of the page's shell blocks."""
  for block in blocks(page, 'bash'):
    for line in block.replace('\\\n', ' ').splitlines():
      words = shlex.split(line, comments=True)
      if words and words[0] == 'rsfm':
        yield words[1:]


@pytest.mark.parametrize(
  'page', PAGES, ids=lambda p: f'{p.parent.name}/{p.stem}'
)
def test_commands_are_ones_that_the_program_knows(page):
  for words in commands(page):
    args, rest = main.parser().parse_known_args(words)
    overrides = getattr(args, 'takes_overrides', False)
    assert all(overrides and w.startswith('--config.') for w in rest), words


@pytest.mark.parametrize(
  'page', PAGES, ids=lambda p: f'{p.parent.name}/{p.stem}'
)
def test_python_is_python(page):
  for block in blocks(page, 'python'):
    ast.parse(block)


def test_there_is_something_to_check():
  found = sum(len(list(commands(page))) for page in PAGES)
  assert found > 10


@pytest.mark.parametrize(
  'page', PAGES, ids=lambda p: f'{p.parent.name}/{p.stem}'
)
def test_links_lead_to_files(page):
  for target in re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', page.read_text()):
    assert (page.parent / target).exists(), target
