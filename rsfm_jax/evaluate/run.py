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

  @property
  def multilabel(self) -> bool:
    return self.y['train'].ndim == 2


def _check(features, labels, classes) -> _Data:
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
  return _Data(x, y, int(classes))


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


def _neighbours(protocol, data, metric, seed) -> Prediction:
  del metric, seed
  votes = knn.classify(
    data.x['train'],
    data.y['train'],
    data.x['test'],
    how=knn.rule(protocol.rule),
    classes=data.classes,
  )
  return Prediction(votes.predictions, votes.scores, {}, len(data.x['train']))


def _logistic(protocol, data, metric, seed) -> Prediction:
  del seed
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
  return Prediction(
    _bits_or_classes(on_test, data.multilabel),
    _probabilities(on_test, data.multilabel),
    chosen,
    len(x),
  )


def _adamw(protocol, data, metric, seed) -> Prediction:
  validation = data.x['val'], data.y['val']
  fitted = probe.fit(
    data.x['train'],
    data.y['train'],
    classes=data.classes,
    learning_rates=protocol.grid,
    recipe=protocol.recipe,
    validation=validation,
    seed=seed,
  )
  best, score = _best(probe.logits(fitted, data.x['val']), data, metric)
  on_test = probe.logits(fitted, data.x['test'])[best]
  return Prediction(
    _bits_or_classes(on_test, data.multilabel),
    _probabilities(on_test, data.multilabel),
    {'learning_rate': protocol.grid[best], 'val': score},
    len(data.x['train']),
  )


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
  protocol: protocols_lib.Protocol, data: _Data, *, metric: str, seed: int
) -> Prediction:
  """Scales the features, fits on train, selects on val, predicts test."""
  if data.multilabel and not protocol.multilabel:
    raise ValueError(f'protocol {protocol.name} has no multi-label form.')
  if protocol.kind != 'knn' and 'val' not in data.x:
    raise ValueError(f'protocol {protocol.name} needs a split "val".')
  scale = features_lib.scaler(data.x['train'], scaling=protocol.scaling)
  data = data._replace(x={split: scale(x) for split, x in data.x.items()})
  return _KINDS[protocol.kind](protocol, data, metric, seed)


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
  resamples: int = 1000,
  seed: int = 0,
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
    resamples: of the bootstrap of the interval.
    seed: of probes and bootstrap.

  Returns:
    One row a protocol, with its predictions in memory for
    `bootstrap.difference`.

  Raises:
    ValueError: splits, shapes or labels that do not fit, features that are not
      finite, an unknown protocol.
  """
  presets = [protocols_lib.get(protocol) for protocol in protocols]
  data = _check(features, labels, classes)
  out = []
  for protocol in presets:
    start = time.perf_counter()
    metric = protocol.multilabel_metric if data.multilabel else protocol.metric
    result = predict(protocol, data, metric=metric, seed=seed)
    interval = bootstrap.interval(
      result.predictions,
      data.y['test'],
      classes=data.classes,
      metric=metric,
      scores=result.scores,
      resamples=resamples,
      seed=seed,
    )
    out.append(
      rows_lib.Row(
        name=name,
        dataset=dataset,
        protocol=protocol.name,
        protocol_version=protocol.version,
        normalisation=normalisation,
        metric=metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        checkpoint=checkpoint,
        missing_bands=missing_bands,
        n_train=result.n_train,
        n_test=len(data.y['test']),
        seconds=round(time.perf_counter() - start, 3),
        chosen=result.chosen,
        metrics=_all_metrics(result, data),
        predictions=result.predictions,
      )
    )
  return out
