"""An error names the key, the value, what is allowed and what was meant."""

import pytest

from rsfm_jax.core import choices


def test_an_allowed_value_passes_through():
  assert choices.check('mean', ('sum', 'mean'), key='prune.merge') == 'mean'


def test_a_wrong_value_is_explained():
  with pytest.raises(ValueError) as error:
    choices.check('maen', ('sum', 'mean'), key='prune.merge')
  assert str(error.value) == (
    "prune.merge='maen' is not allowed; choose one of ['sum', 'mean']. "
    'Did you mean "mean"?'
  )


def test_nothing_is_suggested_when_nothing_is_close():
  assert choices.suggest('zzz', ('sum', 'mean')) == ''


def test_a_generator_of_choices_is_read_once():
  allowed = (name for name in ('sum', 'mean'))
  with pytest.raises(ValueError, match=r"\['sum', 'mean'\]"):
    choices.check('max', allowed, key='k')
