"""The house rules as a test: who imports whom, and how large things get.

Every rule is a generator of findings over parsed sources, so that each can be
shown, on a planted violation, to be able to fail.
"""

import ast
from collections.abc import Iterator
import functools
import pathlib
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = 'rsfm_jax'
FOLDERS = (PACKAGE, 'configs', 'tests', 'benchmarks', 'data', 'experiments')

# A package imports only packages of smaller rows, and itself.
ROWS = {
  'core': 0,
  'sensors': 1,
  'sharding': 1,
  'nn': 2,
  'moe': 3,
  'models': 4,
  'objectives': 5,
  'tasks': 5,
  'data': 5,
  'train': 6,
  'evaluate': 6,
  'pruning': 6,
  'export': 6,
  'convert': 6,
  'launch': 7,
  'plots': 7,
  'cli': 8,
  '__main__': 9,
}
SIDEWAYS = {('evaluate', 'train'), ('export', 'train')}
# The loop receives loss, optimiser and batches as arguments: that is what
# makes a new objective free.
NEVER = {('train', room) for room in ('objectives', 'tasks', 'models', 'data')}

# Library -> the only files or folders of the package that may import it.
IMPORTERS = {
  'orbax': ('train/checkpoint.py',),
  'tensorstore': ('train/slices.py',),
  'optax': ('train/optim.py',),
  'tensorboardX': ('train/writers.py',),
  'grain': ('data/',),
  'array_record': ('data/',),
  'tensorflow_datasets': ('data/',),
  'rasterio': ('data/geotiff.py', 'data/cog.py'),
  'dask': ('data/cluster.py',),
  'distributed': ('data/cluster.py',),
  'matplotlib': ('plots/',),
  'absl.flags': ('cli/',),
  'absl.app': ('cli/',),
  'ml_collections': ('cli/',),
  # Formats that can run code when they are read; a test may, to refuse one.
  'pickle': (),
  'cloudpickle': (),
  'dill': (),
  'joblib': (),
  'shelve': (),
  'marshal': (),
}
# Not even a test or a benchmark imports these.
NOWHERE = ('torch', 'torchvision', 'torchgeo', 'tensorflow', 'cv2')

FILE_LINES = 500
FUNCTION_LINES = 80
LONG_FUNCTIONS = {'fit': 150, 'get_config': 150}
VAGUE_NAMES = {'utils', 'util', 'helpers', 'helper', 'common', 'misc'}


class Source(NamedTuple):
  """The nodes of one file and its path relative to the root, with '/'."""

  path: str
  text: str
  nodes: tuple[ast.AST, ...]

  @property
  def room(self) -> str | None:
    """The package ('core') or top module ('__main__'); None outside."""
    parts = self.path.removesuffix('.py').split('/')
    inside = parts[0] == PACKAGE and parts[1:] != ['__init__']
    return parts[1] if inside else None


@functools.cache
def sources(root: pathlib.Path) -> list[Source]:
  found = []
  for folder in FOLDERS:
    for path in sorted((root / folder).rglob('*.py')):
      text = path.read_text()
      name = path.relative_to(root).as_posix()
      tree = ast.parse(text, filename=name)
      found.append(Source(name, text, tuple(ast.walk(tree))))
  return found


def imports(source: Source) -> Iterator[tuple[ast.stmt, str]]:
  """Every imported dotted name; `from a import b` gives 'a.b'."""
  for node in source.nodes:
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield node, alias.name
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        yield node, f'{"." * node.level}{node.module or ""}.{alias.name}'


def rows(root: pathlib.Path) -> Iterator[str]:
  """Imports that do not go strictly down the table of rows."""
  for source in sources(root):
    room = source.room
    if room is None:
      continue
    if room not in ROWS:
      yield f'{source.path}: {room} is in no row; add it to ROWS'
      continue
    for node, name in imports(source):
      package, _, rest = name.partition('.')
      other = rest.split('.')[0]
      if package != PACKAGE or other in ('', room):
        continue
      pair = (room, other)
      lower = ROWS.get(other, len(ROWS)) < ROWS[room]
      if pair in NEVER or not (lower or pair in SIDEWAYS):
        yield f'{source.path}:{node.lineno}: {room} must not import {name}'


def importers(root: pathlib.Path) -> Iterator[str]:
  """Libraries imported outside the one place that wraps them."""
  for source in sources(root):
    # Outside the package a wrapped library may serve as an oracle.
    rules = IMPORTERS if source.path.startswith(f'{PACKAGE}/') else {}
    for node, name in imports(source):
      for library, allowed in (rules | dict.fromkeys(NOWHERE, ())).items():
        places = tuple(f'{PACKAGE}/{place}' for place in allowed)
        found = f'{name}.'.startswith(f'{library}.')
        if found and not source.path.startswith(places):
          where = ' or '.join(places) or 'nowhere'
          yield f'{source.path}:{node.lineno}: {library} belongs in {where}'


def module_imports(root: pathlib.Path) -> Iterator[str]:
  """Relative imports, and imports of names rather than of modules."""
  for source in sources(root):
    for node, name in imports(source):
      path = root.joinpath(*name.split('.'))
      is_module = path.is_dir() or path.with_suffix('.py').is_file()
      if name.startswith('.'):
        yield f'{source.path}:{node.lineno}: relative import of {name}'
      elif name.startswith(f'{PACKAGE}.') and not is_module:
        yield f'{source.path}:{node.lineno}: {name} is not a module'


def local_imports(root: pathlib.Path) -> Iterator[str]:
  """Imports inside a function, where nobody looks for them."""
  for source in sources(root):
    for function in source.nodes:
      if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        for node in ast.walk(function):
          if isinstance(node, ast.Import | ast.ImportFrom):
            yield f'{source.path}:{node.lineno}: import in {function.name}()'


def sizes(root: pathlib.Path) -> Iterator[str]:
  """Files and functions that ask to be split."""
  for source in sources(root):
    lines = source.text.count('\n')
    if lines > FILE_LINES:
      yield f'{source.path}: {lines} lines, more than {FILE_LINES}'
    for node in source.nodes:
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        lines = node.end_lineno - node.lineno + 1
        limit = LONG_FUNCTIONS.get(node.name, FUNCTION_LINES)
        if lines > limit:
          where = f'{source.path}:{node.lineno}'
          yield f'{where}: {node.name}() has {lines} lines, more than {limit}'


def vague_names(root: pathlib.Path) -> Iterator[str]:
  """Packages and modules named after nothing in the field."""
  for source in sources(root):
    for part in source.path.removesuffix('.py').split('/'):
      if part.removesuffix('_test') in VAGUE_NAMES:
        yield f'{source.path}: {part!r} says nothing about what is inside'


def pickles(root: pathlib.Path) -> Iterator[str]:
  """`allow_pickle` with anything but False: data that could run code."""
  for source in sources(root):
    if source.path.startswith('tests/'):
      continue  # A test may make one, to show that it is refused.
    for node in source.nodes:
      if isinstance(node, ast.keyword) and node.arg == 'allow_pickle':
        value = ast.unparse(node.value)
        if value != 'False':
          yield f'{source.path}:{node.value.lineno}: allow_pickle={value}'


RULES = (
  rows,
  importers,
  module_imports,
  local_imports,
  sizes,
  vague_names,
  pickles,
)
BODY = '\n'.join('  pass' for _ in range(100))


@pytest.mark.parametrize('rule', RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule):
  findings = list(rule(ROOT))
  assert not findings, '\n' + '\n'.join(findings)


def test_the_rules_see_the_tree():
  assert len([s for s in sources(ROOT) if s.room == 'core']) >= 7


@pytest.mark.parametrize(
  'rule, path, text',
  [
    (rows, 'core/a.py', 'from rsfm_jax.nn import swin'),
    (rows, 'core/a.py', 'import rsfm_jax.nn.swin'),
    (rows, 'sensors/a.py', 'from rsfm_jax.sharding import mesh'),
    (rows, 'objectives/a.py', 'from rsfm_jax.data import store'),
    (rows, 'pruning/a.py', 'from rsfm_jax.train import checkpoint'),
    (rows, 'train/a.py', 'from rsfm_jax.evaluate import knn'),
    (rows, 'train/a.py', 'from rsfm_jax.models import ringmoe'),
    (rows, 'train/a.py', 'from rsfm_jax.nowhere import a'),
    (rows, 'attic/a.py', ''),
    (importers, 'nn/a.py', 'import optax'),
    (importers, 'train/hooks.py', 'from orbax import checkpoint'),
    (importers, 'data/zip.py', 'import rasterio.windows'),
    (importers, 'models/a.py', 'from absl import flags'),
    (importers, 'train/a.py', 'from ml_collections import config_dict'),
    (importers, 'cli/a.py', 'from matplotlib import figure'),
    (importers, 'data/a.py', 'import pickle'),
    (importers, 'data/a.py', 'import torch.nn'),
    (importers, '../tests/a.py', 'import torch'),
    (module_imports, 'core/a.py', 'from . import trees'),
    (module_imports, 'core/a.py', 'from rsfm_jax.core.trees import count'),
    (local_imports, 'core/a.py', 'def f():\n  import os'),
    (local_imports, 'core/a.py', 'class C:\n  def f(self):\n    import os'),
    (sizes, 'core/a.py', 'x = 1\n' * 501),
    (sizes, 'core/a.py', f'def f():\n{BODY}'),
    (sizes, 'core/a.py', f'async def f():\n{BODY}'),
    (vague_names, 'core/utils.py', ''),
    (vague_names, 'helpers/a.py', ''),
    (vague_names, '../tests/common_test.py', ''),
    (pickles, 'data/a.py', 'np.load(p, allow_pickle=True)'),
    (pickles, 'data/a.py', 'np.load(p, allow_pickle=unsafe)'),
  ],
)
def test_a_planted_violation_is_found(tmp_path, rule, path, text):
  for folder in ('core', 'nn'):
    (tmp_path / PACKAGE / folder).mkdir(parents=True)
    (tmp_path / 'tests').mkdir(exist_ok=True)
  (tmp_path / PACKAGE / 'core' / 'trees.py').touch()
  file = (tmp_path / PACKAGE / path).resolve()
  file.parent.mkdir(exist_ok=True)
  file.write_text(text)
  assert len(list(rule(tmp_path))) == 1


@pytest.mark.parametrize(
  'path, text',
  [
    ('evaluate/a.py', 'from rsfm_jax.train import checkpoint'),
    ('cli/a.py', 'from absl import flags\nfrom rsfm_jax.plots import report'),
    ('train/checkpoint.py', 'import orbax.checkpoint as ocp'),
    ('train/optim.py', 'import optax'),
    ('core/log.py', 'from absl import logging'),
    ('train/loop.py', f'def fit():\n{BODY}'),
    ('data/a.py', 'np.load(p, allow_pickle=False)'),
    ('__init__.py', ''),
    ('train/run.py', 'import rsfm_jax'),
    ('../tests/a_test.py', 'import pickle'),
    ('../tests/a_test.py', 'import optax'),
    ('../configs/base.py', f'import ml_collections\ndef get_config():\n{BODY}'),
  ],
)
def test_what_the_house_allows_is_not_reported(tmp_path, path, text):
  for module in ('plots/report.py', 'train/checkpoint.py'):
    file = tmp_path / PACKAGE / module
    file.parent.mkdir(parents=True)
    file.touch()
  file = tmp_path / PACKAGE / path
  file.parent.joinpath().resolve().mkdir(exist_ok=True, parents=True)
  file.resolve().write_text(text)
  assert not [finding for rule in RULES for finding in rule(tmp_path)]
