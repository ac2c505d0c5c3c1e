"""Fills a model's parameters from dense weights, and accounts for every one."""

from collections.abc import Mapping, Sequence
import re
from typing import Any, NamedTuple

import numpy as np

from rsfm_jax.convert import bands as bands_lib
from rsfm_jax.convert import kinds
from rsfm_jax.convert import report as report_lib
from rsfm_jax.convert import rules
from rsfm_jax.convert import sources
from rsfm_jax.convert.targets import find
from rsfm_jax.core import trees

Dense = rules.Dense


class Filled(NamedTuple):
  """Parameters by name, and what became of every tensor."""

  params: dict[str, np.ndarray]
  report: report_lib.Report


def fill(
  tensors: Mapping[str, np.ndarray],
  *,
  source: str,
  spec: Any,
  initial: trees.Tree,
  bands: Sequence[str] | None = None,
  skip: str | None = None,
  noise: float = 0.0,
  seed: int = 0,
) -> Filled:
  """Parameters of a model from the tensors of a source.

  Args:
    tensors: by the source's names; see `convert.weights.read`.
    source: a name of `convert.sources.SOURCES`.
    spec: of the model.
    initial: its parameters, which stay where the source has nothing.
    bands: of the source's patch embedding; None takes those of the source.
    skip: regex over the source's names of what is left out.
    noise: of the copies of an FFN, relative to its matrices' deviation.
    seed: of the noise.

  Raises:
    ValueError: shapes or depths that do not fit, naming both sides, or a model
      without a place for the source.
  """
  from_ = sources.SOURCES[source]
  initial = trees.flatten(initial)
  job = kinds.Job(
    from_,
    spec,
    find.find(spec, from_.family),
    initial,
    bands_lib.named(bands or from_.bands),
    noise,
    seed,
  )
  asked = () if skip is None else (rules.skip(skip, 'as --skip asks'),)
  translated = rules.translate(tensors, (*asked, *from_.rules))
  dense = dict(translated.dense)
  if not any(name.endswith('/scale_1') for name in initial):
    dense = fold_layer_scale(dense)
  params, rows, used = {}, [], set()
  for name, leaf in initial.items():
    made, reason, names = _make(name, leaf, dense, job)
    used |= set(names)
    if made is None:
      params[name] = np.asarray(leaf)
      rows.append(report_lib.TargetRow(name, tuple(leaf.shape), (), reason))
    else:
      params[name] = made.array.astype(leaf.dtype)
      how = '; '.join(dict.fromkeys(h for h in made.how if h))
      rows.append(
        report_lib.TargetRow(name, tuple(leaf.shape), made.sources, how)
      )
  report = report_lib.account(
    source,
    tensors,
    translated,
    dense,
    used,
    leave=job.target.leave,
    filled=rows,
    notes=job.target.notes,
  )
  return Filled(params, report)


def fold_layer_scale(dense: Mapping[str, Dense]) -> dict[str, Dense]:
  """x + g f(x) without g: what f ends with is multiplied by it."""
  out = dict(dense)
  for name in [n for n in dense if re.search(r'/scale_[12]$', n)]:
    block, which = name.rsplit('/', 1)
    scale = out.pop(name)
    last = ('attention/out/kernel', 'attention/out/bias')
    for leaf in last if which == 'scale_1' else ('ffn/w_out', 'ffn/b_out'):
      at = f'{block}/{leaf}'
      if at in out:
        folded = out[at].changed(
          'times the layer scale', out[at].array * scale.array
        )
        out[at] = folded._replace(sources=(*folded.sources, *scale.sources))
  return out


def _make(
  name: str, leaf: Any, dense: Mapping[str, Dense], job: kinds.Job
) -> tuple[Dense | None, str, list[str]]:
  """(what fills a parameter or None, why it is not filled, dense names)."""
  for place in job.target.places:
    if match := re.fullmatch(place.pattern, name):
      break
  else:
    return None, 'the source has nothing like it', []
  if place.take is None:
    return None, place.reason, []
  take = match.expand(place.take)
  stacked = '{layer}' in take
  count = leaf.shape[0] if stacked else 1
  names = [
    take.replace('{layer}', str(place.first + i * place.step))
    for i in range(count)
  ]
  have = [n for n in names if n in dense]
  if not have:
    return None, f'the source has no {names[0]}', []
  if len(have) < len(names):
    raise ValueError(
      f'{name} stacks {count} blocks, the source has {len(have)} of them: '
      'config.model.depths, or depth, must be as in the source.'
    )
  made = _stack([dense[n] for n in names]) if stacked else dense[take]
  made, reason = kinds.KINDS[place.kind](
    name, kinds.Found(place, match), made, leaf, job
  )
  if made is not None:
    kinds.check_shape(name, made, leaf)
  return made, reason, names


def _stack(parts: Sequence[Dense]) -> Dense:
  shapes = {part.array.shape for part in parts}
  if len(shapes) > 1:
    raise ValueError(
      f'{parts[0].sources[0]} and its like in other blocks have the shapes '
      f'{sorted(shapes)}; blocks of a stage must be alike.'
    )
  return Dense(
    np.stack([part.array for part in parts]),
    tuple(s for part in parts for s in part.sources),
    parts[0].how if len(parts) == 1 else (*parts[0].how, 'stacked'),
  )
