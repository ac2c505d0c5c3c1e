"""Programs that run once: compile them cheaply."""

from collections.abc import Callable
import functools
from typing import Any

import jax


def jit(fn: Callable[..., Any], **options: Any) -> Callable[..., Any]:
  """`jax.jit` for initialisation and the like.

  On CPU such a program costs far more to optimise than to run: without LLVM's
  optimisation the initialisation of a tiny model compiles in a third of the
  time. Inside another trace `fn` becomes a part of that program.
  """
  if jax.default_backend() == 'cpu':
    options['compiler_options'] = {'xla_backend_optimization_level': 0}
  compiled = jax.jit(fn, **options)

  @functools.wraps(fn)
  def run(*args: Any) -> Any:
    traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args))
    return fn(*args) if traced else compiled(*args)

  return run
