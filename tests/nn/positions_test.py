"""Tables of positions: what resizing keeps, and fixed waves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.nn import positions

FLOAT32 = 1e-5
KINDS = ['bicubic', 'bicubic_antialias']


def table(rows=5, columns=5, dim=3):
  return jax.random.normal(jax.random.key(0), (rows, columns, dim))


def test_the_same_size_is_the_table_itself():
  one = table()
  assert positions.resize(one, 5, 5) is one


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [(3, 9), (8, 2), (1, 1)])
def test_a_constant_table_stays_constant(kind, size):
  out = positions.resize(jnp.full((5, 4, 2), 0.7), *size, kind=kind)
  assert out.shape == (*size, 2)
  np.testing.assert_allclose(out, 0.7, rtol=FLOAT32)


# Only with a = -0.5 does the cubic kernel keep a ramp.
@pytest.mark.parametrize(
  ('kind', 'limit'), [('bicubic', 0.2), ('bicubic_antialias', 1e-4)]
)
def test_rows_and_columns_are_not_confused(kind, limit):
  """A ramp along the rows stays one, away from the borders."""
  ramp = jnp.broadcast_to(jnp.arange(12.0).reshape(12, 1, 1), (12, 7, 1))
  out = positions.resize(ramp, 24, 3, kind=kind)[..., 0]
  inner = np.asarray(out)[6:-6]
  np.testing.assert_allclose(np.diff(inner, axis=0), 0.5, rtol=limit)
  np.testing.assert_allclose(inner - inner[:, :1], 0, atol=FLOAT32)


def test_antialiasing_sees_what_lies_between_the_samples():
  checks = (jnp.arange(16) % 2).reshape(16, 1, 1) * jnp.ones((16, 16, 1))
  plain = positions.resize(checks, 4, 4)
  smooth = positions.resize(checks, 4, 4, kind='bicubic_antialias')
  assert float(jnp.abs(smooth - 0.5).max()) < 0.1
  assert plain.shape == smooth.shape
  # Far from the middle of a place, nothing weighs without anti-aliasing.
  matrix = positions.resize_matrix(32, 4, 'bicubic')
  assert (matrix != 0).sum() == 16


def test_the_gradient_reaches_the_table():
  gradient = jax.grad(lambda t: positions.resize(t, 7, 9).sum())(table())
  # Weights of a place sum to one; all of them together to the new places.
  np.testing.assert_allclose(gradient.sum(), 7 * 9 * 3, rtol=1e-4)


def test_an_unknown_kind_is_named():
  with pytest.raises(ValueError, match='bicubic_antialias'):
    positions.resize(table(), 7, 7, kind='cubic')


def test_waves_encode_columns_first_and_any_grid():
  waves = positions.sincos(8, 3, 5)
  assert waves.shape == (3, 5, 8) and waves.dtype == np.float32
  # The first half is the same in a column, the second half in a row.
  np.testing.assert_array_equal(waves[0, :, :4], waves[2, :, :4])
  np.testing.assert_array_equal(waves[:, 0, 4:], waves[:, 3, 4:])
  np.testing.assert_allclose(waves[1, 2, :2], np.sin([2.0, 0.02]), rtol=1e-6)
  np.testing.assert_allclose(waves[1, 2, 6:], np.cos([1.0, 0.01]), rtol=1e-6)


def test_waves_need_four_channels_at_a_time():
  with pytest.raises(ValueError, match='dim=6'):
    positions.sincos(6, 2, 2)
