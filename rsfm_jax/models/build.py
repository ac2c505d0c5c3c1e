"""From a spec to pure functions over a nested dict of parameters."""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax

from rsfm_jax.core import choices
from rsfm_jax.core import once
from rsfm_jax.models import mapex
from rsfm_jax.models import ringmoe
from rsfm_jax.models import skysense_v2

# Where heads stand among the parameters of a train state, beside the model's:
# those of an objective, or of the task of a fine-tuning.
HEADS = 'objective'
MODELS = {
  'ringmoe': (ringmoe.RingMoESpec, ringmoe.RingMoE),
  'skysense_v2': (skysense_v2.SkySenseV2Spec, skysense_v2.SkySenseV2),
  'mapex': (mapex.MapexSpec, mapex.Mapex),
}


class Model(NamedTuple):
  """A model without state.

  Attributes:
    spec: the frozen spec it was built from.
    init: key -> nested dict of parameters, compiled as one program.
    apply: (params, *args, **kwargs) -> output of the module's call.
    abstract: nested dict of `jax.ShapeDtypeStruct`; nothing is allocated.
  """

  spec: Any
  init: Callable[[jax.Array], Any]
  apply: Callable[..., Any]
  abstract: Any


@functools.lru_cache(maxsize=64)
def build(spec: Any) -> Model:
  """Builds the model of a spec; allocates nothing until `init`.

  The same spec gives the same object, so that programs compiled for its
  `apply` are found again.
  """
  module = next(m for s, m in MODELS.values() if isinstance(spec, s))
  make = functools.partial(module, spec)
  graphdef, state = nnx.split(
    nnx.eval_shape(lambda: make(key=jax.random.key(0)))
  )

  def init(key: jax.Array) -> Any:
    return nnx.to_pure_dict(nnx.split(make(key=key))[1])

  def apply(params: Any, *args: Any, **kwargs: Any) -> Any:
    return nnx.merge(graphdef, params)(*args, **kwargs)

  return Model(spec, once.jit(init), apply, nnx.to_pure_dict(state))


def spec_from_json(value: Mapping[str, Any]) -> Any:
  """The spec that a checkpoint or an exported folder carries.

  Raises:
    ValueError: an unknown model or a damaged spec.
  """
  name = choices.check(value.get('model', ''), MODELS, key='spec.model')
  return MODELS[name][0].from_json(value)
