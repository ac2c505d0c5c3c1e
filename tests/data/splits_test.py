"""Splits: pure, balanced, and without shared ground."""

import collections

import pytest

from rsfm_jax.data import splits


def square(longitude, latitude, edge=0.006):
  return [
    (longitude + a * edge, latitude + b * edge)
    for a, b in ((0, 1), (1, 1), (1, 0), (0, 0))
  ]


def test_random_keeps_scenes_together_and_its_shares():
  policy = splits.Policy(kind='random', shares=(0.7, 0.1, 0.2), seed=3)
  names = [splits.assign(policy, scene=f's{i}') for i in range(4000)]
  assert names == [splits.assign(policy, scene=f's{i}') for i in range(4000)]
  counts = collections.Counter(names)
  for name, share in zip(splits.NAMES, policy.shares, strict=True):
    assert abs(counts[name] / 4000 - share) < 0.03
  other = splits.Policy(kind='random', shares=policy.shares, seed=4)
  assert names != [splits.assign(other, scene=f's{i}') for i in range(4000)]


def test_location_gives_no_ground_to_two_splits():
  """Every pixel under kept, overlapping chips has chips of one split only."""
  policy = splits.Policy(kind='location', shares=(0.5, 0, 0.5), block_km=2.0)
  step, edge = 0.002, 0.006
  found = {}
  for i in range(60):
    for j in range(60):
      corners = square(10 + i * step, 50 + j * step, edge)
      name = splits.assign(policy, scene=f'{i}/{j}', corners=corners)
      for a in range(3):
        for b in range(3):
          if name is not None:
            found.setdefault((i + a, j + b), set()).add(name)
  assert all(len(names) == 1 for names in found.values())
  kept = {name for names in found.values() for name in names}
  assert kept == {'train', 'test'}


def test_the_same_place_on_another_date_has_the_same_split():
  policy = splits.Policy(kind='location', shares=(0.4, 0.3, 0.3))
  for i in range(50):
    corners = square(-70 + 0.3 * i, -20)
    first = splits.assign(policy, scene='2018', corners=corners)
    assert first == splits.assign(policy, scene='2020', corners=corners)


def test_a_table_and_a_name_are_kept_as_they_are():
  table = splits.Policy(kind='table')
  assert splits.assign(table, scene='a', given='val') == 'val'
  assert splits.assign(splits.Policy(kind='test'), scene='a') == 'test'
  with pytest.raises(ValueError, match='no table gives a a split'):
    splits.assign(table, scene='a')


@pytest.mark.parametrize(
  'options, message',
  [
    ({'kind': 'locations'}, 'Did you mean "location"'),
    ({'shares': (0.5, 0.1, 0.1)}, 'add up to 1'),
    ({'block_km': 0}, 'block_km'),
  ],
)
def test_a_wrong_policy_is_an_error(options, message):
  with pytest.raises(ValueError, match=message):
    splits.Policy(**options)


def test_location_needs_a_place_and_blocks_larger_than_chips():
  policy = splits.Policy(kind='location', block_km=0.1)
  with pytest.raises(ValueError, match='x has no CRS'):
    splits.assign(policy, scene='x')
  with pytest.raises(ValueError, match='smaller than a chip'):
    splits.assign(policy, scene='x', corners=square(10, 50))
