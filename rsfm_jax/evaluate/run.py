"""Features and labels in, rows of results out."""

from collections.abc import Mapping, Sequence
import time
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from rsfm_jax.core import log
from rsfm_jax.evaluate import bootstrap
from rsfm_jax.evaluate import features as features_lib
from rsfm_jax.evaluate import knn
from rsfm_jax.evaluate import logistic
from rsfm_jax.evaluate import metrics
from rsfm_jax.evaluate import probe
from rsfm_jax.evaluate import protocols as protocols_lib
from rsfm_jax.evaluate import rows as rows_lib

# Entries of the gradient; ten times scikit-learn's default is not converged.
_ENOUGH = 1e-3


class Prediction(NamedTuple):
  predictions: np.ndarray  # i32[N], or bits i32[N, L]
  scores: np.ndarray  # f[N, K] or f[N, L]: probabilities, or shares of votes
  chosen: dict[str, Any]
  n_train: int


class _Data(NamedTuple):
  x: dict[str, np.ndarray]  # by split
  y: dict[str, np.ndarray]
  classes: int
  pools: tuple[str, ...]

  @property
  def multilabel(self) -> bool:
    return self.y['train'].ndim == 2


def _check(features, labels, classes, pools) -> _Data:
  """Same splits, rows and widths, finite, labels within the classes."""
  for split in ('train', 'test'):
    if split not in features or split not in labels:
      raise ValueError(
        f'split "{split}" is missing: features have {sorted(features)}, '
        f'labels have {sorted(labels)}.'
      )
  x = {s: np.asarray(features[s]) for s in features if s in labels}
  y = {s: np.asarray(labels[s]) for s in x}
  width = x['train'].shape[1]
  for split in x:
    if x[split].ndim != 2 or x[split].shape[1] != width:
      raise ValueError(
        f'features of split {split} are {x[split].shape}, not [N, {width}].'
      )
    if not len(x[split]) or len(x[split]) != len(y[split]):
      raise ValueError(
        f'split {split}: {len(x[split])} features, {len(y[split])} labels.'
      )
    if not np.isfinite(x[split]).all():
      raise ValueError(f'features of split {split} hold NaN or infinity.')
  if classes is None:
    bits = y['train'].ndim == 2
    classes = (
      y['train'].shape[1] if bits else 1 + max(v.max() for v in y.values())
    )
  for split in y:  # Raises when a label is no class.
    metrics.cells(y[split], y[split], classes=int(classes))
  if pools and width % len(pools):
    raise ValueError(f'{width} features are not those of the pools {pools}.')
  return _Data(x, y, int(classes), tuple(pools))


def _bits_or_classes(logits: np.ndarray, multilabel: bool) -> np.ndarray:
  decided = logits > 0 if multilabel else logits.argmax(-1)
  return decided.astype(np.int32)


def _probabilities(logits: np.ndarray, multilabel: bool) -> np.ndarray:
  logits = logits.astype(np.float64)
  if multilabel:
    return special.expit(logits)
  return special.softmax(logits, axis=-1)


def _best(logits, data: _Data, metric: str) -> tuple[int, float]:
  """Index and score of the best of logits [S, M, K] on val."""
  found = _bits_or_classes(logits, data.multilabel)
  scores = [
    metrics.measure(
      metric, metrics.Answers(p, one, data.y['val'], data.classes)
    )
    for p, one in zip(found, logits)
  ]
  best = int(np.argmax(scores))
  return best, float(scores[best])


def _scaled(x: Mapping[str, np.ndarray], scaling: str):
  scale = features_lib.scaler(x['train'], scaling=scaling)
  return {split: scale(values) for split, values in x.items()}


def _neighbours(protocol, data, metric, seeds) -> list[Prediction]:
  del metric, seeds
  x = _scaled(data.x, protocol.scalings[0])
  votes = knn.classify(
    x['train'],
    data.y['train'],
    x['test'],
    how=knn.rule(protocol.rule),
    classes=data.classes,
  )
  return [Prediction(votes.predictions, votes.scores, {}, len(x['train']))]


def _logistic(protocol, data, metric, seeds) -> list[Prediction]:
  del seeds
  data = data._replace(x=_scaled(data.x, protocol.scalings[0]))
  x, y = data.x['train'], data.y['train']
  fitted = logistic.fit(x, y, classes=data.classes, C=protocol.grid)
  best, score = _best(logistic.logits(fitted, data.x['val']), data, metric)
  chosen = {'C': protocol.grid[best], 'val': score}
  if protocol.refit == 'train_val':
    x = np.concatenate([x, data.x['val']])
    y = np.concatenate([y, data.y['val']])
    fitted = logistic.fit(x, y, classes=data.classes, C=[chosen['C']])
    best = 0
  chosen['gradient'] = float(fitted.gradient[best])
  if chosen['gradient'] > _ENOUGH:
    log.warning(
      'protocol %s: the logistic regression of C=%g has not converged '
      '(gradient %.1e)', protocol.name, chosen['C'], chosen['gradient'],
    )  # fmt: skip
  on_test = logistic.logits(
    fitted._replace(
      weights=fitted.weights[best, None], bias=fitted.bias[best, None]
    ),
    data.x['test'],
  )[0]
  return [_predicted(on_test, data, chosen, len(x))]


def _predicted(logits, data: _Data, chosen, n_train: int) -> Prediction:
  return Prediction(
    _bits_or_classes(logits, data.multilabel),
    _probabilities(logits, data.multilabel),
    chosen,
    n_train,
  )


def _views(protocol, data: _Data) -> list[tuple[dict[str, str], dict]]:
  """What validation chooses among: a name of each choice, and {split: x}."""
  pooled = [({}, data.x)]
  if protocol.poolings and data.pools:  # Raw statistics have no pools.
    pooled = [
      (
        {'pooling': name},
        {
          split: features_lib.of_pool(values, name, pools=data.pools)
          for split, values in data.x.items()
        },
      )
      for name in protocol.poolings
    ]
  if len(protocol.scalings) == 1:
    return [(named, _scaled(x, protocol.scalings[0])) for named, x in pooled]
  return [
    (named | {'scaling': scaling}, _scaled(x, scaling))
    for named, x in pooled
    for scaling in protocol.scalings
  ]


def _adamw(protocol, data, metric, seeds) -> list[Prediction]:
  """Every view, seed and rate in one program; val chooses for each seed."""
  named, views = zip(*_views(protocol, data), strict=True)
  of = lambda split: [view[split] for view in views]
  fitted = probe.fit(
    of('train'),
    data.y['train'],
    classes=data.classes,
    learning_rates=protocol.grid,
    recipe=protocol.recipe,
    validation=(of('val'), data.y['val']),
    seeds=seeds,
  )
  on_val = probe.logits(fitted, of('val'))
  out = []
  for place, seed in enumerate(seeds):
    found = on_val[:, place]
    best, score = _best(found.reshape(-1, *found.shape[2:]), data, metric)
    view, rate = divmod(best, len(protocol.grid))
    chosen = {'learning_rate': protocol.grid[rate], **named[view]}
    one = probe.only(fitted, view=view, seed=place, rate=rate)
    on_test = probe.logits(one, [views[view]['test']])[0, 0, 0]
    chosen |= {'val': score, 'seed': seed}
    out.append(_predicted(on_test, data, chosen, len(data.y['train'])))
  return out


def _all_metrics(result: Prediction, data: _Data) -> dict[str, float]:
  """Every metric that the labels allow, on test."""
  answers = metrics.Answers(
    result.predictions, result.scores, data.y['test'], data.classes
  )
  return {
    name: round(metrics.measure(name, answers), 6)
    for name in metrics.names_of(answers.labels)
  }


_KINDS = {'knn': _neighbours, 'logistic': _logistic, 'adamw': _adamw}


def predict(
  protocol: protocols_lib.Protocol,
  data: _Data,
  *,
  metric: str,
  seeds: Sequence[int],
) -> list[Prediction]:
  """Scales the features, fits on train, selects on val, predicts test.

  Returns:
    One prediction a seed where the protocol is seeded, else one.
  """
  if data.multilabel and not protocol.multilabel:
    raise ValueError(f'protocol {protocol.name} has no multi-label form.')
  if protocol.kind != 'knn' and 'val' not in data.x:
    raise ValueError(f'protocol {protocol.name} needs a split "val".')
  return _KINDS[protocol.kind](protocol, data, metric, seeds)


def evaluate_features(
  features: Mapping[str, np.ndarray],
  labels: Mapping[str, np.ndarray],
  *,
  protocols: Sequence[str],
  name: str,
  dataset: str,
  classes: int | None = None,
  normalisation: str = 'dataset',
  checkpoint: str = '',
  missing_bands: str = 'error',
  pools: Sequence[str] = (),
  resamples: int = 1000,
  seeds: Sequence[int] = (0,),
) -> list[rows_lib.Row]:
  """Measures frozen features under named protocols.

  Args:
    features: {split: f[N, F]} with train, test and, for probes, val.
    labels: {split: int[N]}, or bits [N, L].
    protocols: names of `protocols.PRESETS`.
    name: what is measured, for the rows.
    dataset: its name, for the rows.
    classes: K or L; default what the labels hold.
    normalisation: of the pixels, for the rows.
    checkpoint: content hash, for the rows.
    missing_bands: policy, for the rows.
    pools: what the features are of, if of pools; see `features.pool`.
    resamples: of the bootstrap of the interval.
    seeds: of probes, all in one program, and of the bootstrap.

  Returns:
    One row a protocol, and a seed where the protocol is seeded (else of the
    first), with its predictions in memory for `bootstrap.difference`.

  Raises:
    ValueError: splits, shapes or labels that do not fit, features that are not
      finite, an unknown protocol.
  """
  presets = [protocols_lib.get(protocol) for protocol in protocols]
  data = _check(features, labels, classes, pools)
  out = []
  for protocol in presets:
    start = time.perf_counter()
    metric = protocol.multilabel_metric if data.multilabel else protocol.metric
    results = predict(protocol, data, metric=metric, seeds=seeds)
    seconds = (time.perf_counter() - start) / len(results)
    # Without a seed in the fit, there is one result: of the first.
    for result, seed in zip(results, seeds):
      row = rows_lib.Row(
        name=name,
        dataset=dataset,
        protocol=protocol.name,
        protocol_version=protocol.version,
        normalisation=normalisation,
        metric=metric,
        checkpoint=checkpoint,
        missing_bands=missing_bands,
        seconds=round(seconds, 6),
        **_measured(result, data, metric, resamples=resamples, seed=seed),
      )
      out.append(row)
  return out


def _measured(
  result: Prediction, data: _Data, metric: str, *, resamples: int, seed: int
) -> dict[str, Any]:
  """What a row says of a prediction."""
  interval = bootstrap.interval(
    result.predictions,
    data.y['test'],
    classes=data.classes,
    metric=metric,
    scores=result.scores,
    resamples=resamples,
    seed=seed,
  )
  return {
    **interval._asdict(),
    'n_train': result.n_train,
    'n_val': len(data.y.get('val', ())),
    'n_test': len(data.y['test']),
    'width': data.x['train'].shape[1],
    'chosen': result.chosen,
    'metrics': _all_metrics(result, data),
    'predictions': result.predictions,
  }
