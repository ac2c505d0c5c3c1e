"""Data sets of one's own: a Python file beside the package."""

import numpy as np
import pytest

from rsfm_jax.cli import main
from rsfm_jax.data import store as stores
from rsfm_jax.data.datasets import registry
from tests.data.datasets import copies

OWN = """
from rsfm_jax.data import masks
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset

HOW = recipe.Recipe(
  sensor='rgb_aerial',
  store_as='opt',
  mask=masks.Mask(classes=('land', 'water'), values=(0, 1)),
)
DATASETS = tuple(
  dataset.Dataset(
    name=name,
    source='our archive',
    recipe=HOW,
    image='images/{id}.png',
    mask='masks/{id}.png',
    id='{id}',
  )
  for name in NAMES
)
"""


def own(folder, *names, text=OWN):
  path = folder / 'ours.py'
  path.write_text(f'NAMES = {names}\n{text}')
  return str(path)


def test_it_is_taken_from_its_file(tmp_path):
  one = registry.get(own(tmp_path, 'lakes'))
  assert one.name == 'lakes' and one.task == 'segmentation'
  both = own(tmp_path, 'lakes', 'ponds')
  assert registry.get(f'{both}:ponds').name == 'ponds'
  assert 'lakes' not in registry.names()


def test_its_scenes_are_divided_and_packed_by_the_verb(tmp_path):
  for i in range(12):
    copies.picture(tmp_path / f'in/images/{i}.png', seed=i)
    copies.png(tmp_path / f'in/masks/{i}.png', copies.halves(0, 1))
  out = tmp_path / 'store'
  words = ['data', 'pack', '--dataset', own(tmp_path, 'lakes')]
  words += ['--from', str(tmp_path / 'in'), '--out', str(out)]
  words += ['--split', 'random', '--shares', '0.5,0.25,0.25', '--workers', '1']
  assert main.main(words) == 0
  store = stores.Store(out)
  assert store.classes == ['land', 'water']
  assert set(store.column('split')) == {'train', 'val', 'test'}
  np.testing.assert_array_equal(store.read(0)['mask'], copies.halves(0, 1))


@pytest.mark.parametrize(
  'names, text, words',
  [
    (('a', 'b'), OWN, r"ours.py:NAME='' is not allowed; choose one of .'a'"),
    (('a',), 'import nothing_like_it', 'does not run: ModuleNotFoundError'),
    (('a',), 'DATASETS = 3', 'must be a tuple of `dataset.Dataset`, and is 3'),
    (('a',), '', 'must be a tuple'),
  ],
)
def test_a_bad_file_is_named(tmp_path, names, text, words):
  with pytest.raises(ValueError, match=words):
    registry.get(own(tmp_path, *names, text=text))
  with pytest.raises(ValueError, match='nowhere.py: no such file'):
    registry.get('nowhere.py')
