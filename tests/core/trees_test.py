"""Names of a tree are an API; rules over them must leave nothing open."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees

TREE = {
  'stage_0': {'kernel': np.ones((2, 3), np.float32), 'bias': np.zeros(3)},
  'norm': {'scale': np.ones(3, np.float16)},
}


def test_names_are_joined_and_sorted():
  assert list(trees.flatten(TREE)) == [
    'norm/scale',
    'stage_0/bias',
    'stage_0/kernel',
  ]


def test_unflatten_inverts_flatten():
  again = trees.unflatten(trees.flatten(TREE))
  assert jax.tree.structure(again) == jax.tree.structure(TREE)
  assert again['stage_0']['kernel'] is TREE['stage_0']['kernel']


def test_a_slash_in_a_key_would_make_names_ambiguous():
  with pytest.raises(ValueError, match="'a/b'"):
    trees.flatten({'a/b': 1})


def test_names_has_its_own_names_as_leaves():
  assert trees.names({'a': {'b': 1}}) == {'a': {'b': 'a/b'}}


def test_map_named_visits_matching_leaves():
  got = trees.map_named(
    lambda name, x, y: f'{name}={x + y}', {'a': {'b': 1}}, {'a': {'b': 2}}
  )
  assert got == {'a': {'b': 'a/b=3'}}


def test_the_first_rule_that_matches_wins():
  rules = [('.*/bias', 'no decay'), ('.*/scale', 'no decay'), ('.*', 'decay')]
  got = trees.flatten(trees.match_rules(TREE, rules, what='decay'))
  assert got == {
    'norm/scale': 'no decay',
    'stage_0/bias': 'no decay',
    'stage_0/kernel': 'decay',
  }


def test_a_rule_matches_the_whole_name():
  with pytest.raises(ValueError, match='no rule matches'):
    trees.match_rules(TREE, [('kernel', 1), ('stage_0', 2)], what='decay')


@pytest.mark.parametrize(
  'rules, finding',
  [
    ([('stage_0/.*', 1)], r'decay: no rule matches .*norm/scale'),
    ([('.*', 1), ('head/.*', 2)], r'decay: rules that match no .*head'),
  ],
  ids=['a leaf without a rule', 'a rule without a leaf'],
)
def test_gaps_in_rules_are_errors_that_name_them(rules, finding):
  with pytest.raises(ValueError, match=finding):
    trees.match_rules(TREE, rules, what='decay')


def test_counts_hold_for_arrays_and_for_shapes_alone():
  abstract = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, TREE))
  assert trees.count(TREE) == trees.count(abstract) == 6 + 3 + 3
  assert trees.bytes_of(TREE) == 6 * 4 + 3 * 8 + 3 * 2
