"""A run that begins with parameters from elsewhere."""

from typing import Any, NamedTuple

import jax
import numpy as np

from rsfm_jax.core import trees


class Begun(NamedTuple):
  """A state that holds the given parameters.

  Attributes:
    state: the whole train state.
    at_init: parameters that were not among those given.
  """

  state: trees.Tree
  at_init: tuple[str, ...]


def check(
  state: trees.Tree, params: trees.Tree, *, origin: str, heads: str
) -> None:
  """Whether parameters can replace those of a state, which may be abstract.

  Args:
    state: the train state.
    params: nested dict; it need not name all.
    origin: where they come from, for messages.
    heads: top-level entry of the state's parameters that belongs to the
      objective, which none of `params` may replace.

  Raises:
    ValueError: a parameter that the run does not have, or of another shape;
      the first one is named.
  """
  own = trees.flatten(state['params'])
  for name, value in trees.flatten(params).items():
    if name not in own or name.startswith(f'{heads}/'):
      raise ValueError(
        f'config.train.init_from={origin} has {name}, which is no parameter '
        "of the run's model."
      )
    if tuple(value.shape) != own[name].shape:
      raise ValueError(
        f'config.train.init_from={origin}: {name} is {tuple(value.shape)} '
        f"there and {own[name].shape} in the run's model; config.model must "
        'be that of the folder.'
      )


def begin(
  state: trees.Tree, params: trees.Tree, *, origin: str, heads: str
) -> Begun:
  """Replaces parameters by name, and their moving average, in a fresh state.

  Arrays keep the shardings and types that the state planned for them; no
  moment of an optimiser depends on parameters before the first step. Arguments
  and errors are those of `check`.
  """
  check(state, params, origin=origin, heads=heads)
  given = trees.flatten(params)
  held = {
    part: trees.map_named(
      lambda name, like: _put(given[name], like) if name in given else like,
      state[part],
    )
    for part in ('params', 'ema')
    if part in state
  }
  missing = tuple(
    name
    for name in trees.flatten(state['params'])
    if name not in given and not name.startswith(f'{heads}/')
  )
  return Begun(state | held, missing)


def _put(value: Any, like: jax.Array) -> jax.Array:
  """A value in the type and on the devices of an array."""
  value = np.asarray(value)
  return jax.make_array_from_callback(
    like.shape, like.sharding, lambda at: value[at].astype(like.dtype)
  )
