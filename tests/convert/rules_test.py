"""From names of a PyTorch model to dense names of ours."""

import numpy as np
import pytest

from rsfm_jax.convert import rules

draw = np.random.default_rng(0).standard_normal


def apply(tensors, *given):
  found = rules.translate(tensors, given)
  return {name: part.array for name, part in found.dense.items()}


def test_q_k_and_v_come_apart_as_they_are_multiplied():
  w, b, x = draw((12, 4)), draw(12), draw((5, 4))
  found = apply({'a.w': w, 'a.b': b}, *rules.qkv('a.w', 'a.b', 'at'))
  parts = [
    x @ found[f'at/{n}/kernel'] + found[f'at/{n}/bias']
    for n in ('query', 'key', 'value')
  ]
  np.testing.assert_allclose(np.concatenate(parts, 1), x @ w.T + b)


def test_a_patch_embedding_sees_rows_columns_and_bands():
  w = draw((6, 3, 2, 2))
  found = apply({'w': w}, rules.Rule('w', {'k': rules.KERNEL}))['k']
  assert found[1, 0, 2, 5] == w[5, 2, 1, 0]


@pytest.mark.parametrize(
  ('change', 'order'),
  [
    # timm: four neighbours one after the other.
    (rules.MERGE, lambda x: [x[0, 0], x[1, 0], x[0, 1], x[1, 1]]),
    # mmcls: `nn.Unfold`, channel by channel.
    (rules.MERGE_UNFOLDED, lambda x: [*np.moveaxis(x, -1, 0).reshape(3, 4)]),
  ],
)
def test_merging_knows_who_stood_where(change, order):
  x, w = draw((2, 2, 3)), draw((6, 12))
  expected = w @ np.concatenate([np.ravel(part) for part in order(x)])
  kernel = change.apply(w)
  np.testing.assert_allclose(np.einsum('ijc,ijcd->d', x, kernel), expected)


@pytest.mark.parametrize('rows', [9, 10])
def test_tables_of_positions_with_and_without_a_class(rows):
  table = draw((1, rows, 4))
  grid = rules.GRID.apply(table)
  np.testing.assert_array_equal(grid.reshape(9, 4), table[0, rows - 9 :])
  class_row = rules.CLASS_ROW.apply(table)
  np.testing.assert_array_equal(class_row, table[0, 0] * (rows == 10))


def test_a_table_of_no_square_grid_is_named():
  rule = rules.Rule('pos', {'p': rules.GRID})
  with pytest.raises(
    ValueError, match=r'pos.*\(1, 8, 4\).*8 rows are no square'
  ):
    rules.translate({'pos': draw((1, 8, 4))}, (rule,))


def test_a_matrix_that_is_not_q_k_and_v_is_named():
  with pytest.raises(ValueError, match=r'a.w.*\(4, 4\).*three equal'):
    rules.translate({'a.w': draw((4, 4))}, rules.qkv('a.w', None, 'at'))


def test_the_first_rule_wins_and_the_rest_is_told():
  given = (
    rules.Rule('a', {'one': rules.COPY}),
    rules.skip('[ab]', 'no need'),
  )
  found = rules.translate({'a': draw(1), 'b': draw(1), 'c': draw(1)}, given)
  assert list(found.dense) == ['one']
  assert found.skipped == {'b': 'no need'}
  assert found.unexplained == ('c',)


def test_a_rule_matches_whole_names():
  found = rules.translate({'a.b': draw(1)}, (rules.skip('a', ''),))
  assert found.unexplained == ('a.b',)


def test_two_models_in_one_file_ask_for_a_prefix():
  rule = rules.Rule(r'(?:x\.)?a', {'a': rules.COPY})
  with pytest.raises(ValueError, match='x.a and a are both a.*--prefix'):
    rules.translate({'a': draw(1), 'x.a': draw(1)}, (rule,))
