"""Configs that come in families build whole; others: tests/cli."""

import dataclasses
import pathlib

import pytest

from configs.ablation import skysense_v2 as ablation
from rsfm_jax.cli import compose
from rsfm_jax.cli import config as configs
from rsfm_jax.core import trees

ROOT = pathlib.Path(__file__).parents[1]
PATH = str(ROOT / 'configs' / 'ablation' / 'skysense_v2.py')
# Of one FFN in stages 2 and 3 at huge, with its biases (facts of the paper).
FFN = {2: 15_866_752, 3: 63_452_928}


def load(size, name, *overrides):
  return configs.load(f'{PATH}:{size},{name}', overrides)


@pytest.mark.parametrize('name', ablation.VARIANTS)
def test_every_ablation_builds_and_differs_from_the_whole(name):
  config, full = load('tiny', name), load('tiny', 'full')
  built = compose.model(config)
  found = compose.objective(config, built, total_steps=10)
  whole = compose.objective(full, compose.model(full), total_steps=10)
  changed = {
    field.name
    for a, b in (
      (built.spec, compose.model(full).spec),
      (found.spec, whole.spec),
    )
    for field in dataclasses.fields(a)
    if getattr(a, field.name) != getattr(b, field.name)
  }
  # What tiny has anyway.
  same = {
    'full', 'experts_4', 'layers_2', 'queries_8', 'reduce_3',
  }  # fmt: skip
  wanted = {key.rpartition('.')[2] for key in ablation.VARIANTS[name]}
  assert changed == (set() if name in same else wanted)


def parameters(name):
  return trees.count(compose.model(load('huge', name)).abstract)


@pytest.mark.slow
def test_experts_of_the_huge_ablations_have_the_parameters_of_the_paper():
  """Tables 14 and 15, the latter as it should read: facts, section 8.3."""
  whole, dense = parameters('full'), parameters('no_moe')
  six = 4 * FFN[2] + 2 * FFN[3]
  gates = 4 * 1408 + 2 * 2816
  assert whole - dense == 7 * six + 8 * gates
  assert parameters('experts_4') - dense == 3 * six + 4 * gates
  assert parameters('experts_16') - dense == 15 * six + 16 * gates
  two = 2 * (7 * FFN[2] + 8 * 1408)
  assert parameters('layers_8') - whole == two
  assert whole - parameters('layers_4') == two
  assert parameters('layers_4') - parameters('layers_2') == two


def test_overrides_go_on_top_and_wrong_names_are_listed():
  config = load('tiny', 'no_msp', '--config.train.total_steps=7')
  assert (config.model.prompts, config.train.total_steps) == (0, 7)
  with pytest.raises(ValueError, match="'tiny,no_mps' is not SIZE,NAME of"):
    load('tiny', 'no_mps')
