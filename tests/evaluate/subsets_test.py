"""Subsets of sensors, then of the groups of each."""

from rsfm_jax.evaluate import subsets


def test_all_first_then_sensors_then_groups_with_the_others_whole():
  found = subsets.of({'a': ('x', 'y'), 'b': ('z',)})
  assert [one.name for one in found] == ['all', 'a', 'b', 'a: x', 'a: y']
  assert found[0].present == {'a': ('x', 'y'), 'b': ('z',)}
  assert found[1].present == {'a': ('x', 'y')}
  assert found[3].present == {'a': ('x',), 'b': ('z',)}


def test_every_subset_once_and_none_empty():
  found = subsets.of({'s': tuple('abcd')})
  names = [one.name for one in found]
  assert len(names) == len(set(names)) == 2**4 - 1
  assert all(one.present['s'] for one in found)


def test_of_many_groups_each_alone_and_all_but_each():
  found = subsets.of({'s': tuple('abcdef')})
  assert sorted(len(one.present['s']) for one in found) == [1] * 6 + [5] * 6 + [
    6
  ]
