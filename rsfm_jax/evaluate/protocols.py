"""Named, versioned protocols: the choice of protocol moves a score by points.

Each preset says how features are scaled, what is fitted, over which grid, how
validation selects, and whether the winner is fitted again on train and val.
The presets of other harnesses copy their published rules; how they pool and
normalise pixels is up to the encoder and is recorded in the row.
"""

import dataclasses
from typing import Literal

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.evaluate import features
from rsfm_jax.evaluate import knn
from rsfm_jax.evaluate import metrics
from rsfm_jax.evaluate import probe

Kind = Literal['knn', 'logistic', 'adamw']


@dataclasses.dataclass(frozen=True)
class Protocol:
  """One way to turn features and labels into a number.

  Attributes:
    name: the key of the preset.
    version: raised when the rules, and so the numbers, change.
    kind: nearest neighbours, logistic regression, or BatchNorm + Linear.
    scalings: of the features, learnt on train: names of `features.SCALINGS`;
      AdamW only: several, of which validation picks one.
    rule: kNN only, a name of `knn.RULES`.
    grid: values of C, or learning rates; validation picks one, of equals the
      first.
    poolings: AdamW only: names of `features.POOLS`, of which validation picks
      one; empty: what the pools give stands side by side.
    refit: what the chosen C is fitted on at the end.
    recipe: AdamW only.
    metric: for one label a sample; selects on val and is reported on test.
    multilabel_metric: the same for bits.
    multilabel: whether the protocol is defined for bits.
    source: where the rules come from.
  """

  name: str
  version: int
  kind: Kind
  scalings: tuple[str, ...]
  source: str
  rule: str | None = None
  grid: tuple[float, ...] = ()
  poolings: tuple[str, ...] = ()
  refit: Literal['train', 'train_val'] = 'train'
  recipe: probe.Recipe | None = None
  metric: str = 'accuracy'
  multilabel_metric: str = 'micro_f1'
  multilabel: bool = True

  def __post_init__(self):
    for scaling in self.scalings:
      choices.check(scaling, features.SCALINGS, key='protocol.scalings')
    for pooling in self.poolings:
      choices.check(pooling, features.POOLS, key='protocol.poolings')
    for metric in (self.metric, self.multilabel_metric):
      known = (*metrics.COUNTED, *metrics.SCORED)
      choices.check(metric, known, key='protocol.metric')
    if self.kind == 'knn':
      knn.rule(self.rule)
    elif not self.grid:
      raise ValueError(f'protocol {self.name} needs a grid.')
    if self.kind == 'adamw' and self.recipe is None:
      raise ValueError(f'protocol {self.name} needs a recipe.')
    if self.kind != 'adamw' and (len(self.scalings) > 1 or self.poolings):
      raise ValueError(
        f'protocol {self.name}: only kind adamw chooses among scalings and '
        'poolings.'
      )

  @property
  def fits(self) -> int:
    """Classifiers that are fitted: the grid, and the winner once more."""
    refits = self.kind == 'logistic' and self.refit == 'train_val'
    views = len(self.scalings) * max(len(self.poolings), 1)
    return views * max(len(self.grid), 1) + refits

  @property
  def seeded(self) -> bool:
    """Whether a seed changes what is fitted to all of the labels."""
    return self.kind == 'adamw'


def _grid(start: float, stop: float, count: int) -> tuple[float, ...]:
  return tuple(float(c) for c in np.logspace(start, stop, count))


def _neighbours(name, rule, *, scaling='none', version=1, **rest) -> Protocol:
  return Protocol(name, version, 'knn', (scaling,), rule=rule, **rest)


_OLMOEARTH = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1)


def _olmoearth(
  name, words, *, reset=None, scalings=('none',), **rest
) -> Protocol:
  return Protocol(
    name,
    2,  # 1 kept the best state of bits by micro-F1.
    'adamw',
    scalings,
    f'olmoearth_pretrain/evals/linear_probe.py with --select_best_val, {words}'
    '; batch 128 is a DEFAULT',
    grid=_OLMOEARTH,
    recipe=probe.Recipe(
      evaluate_every=5, reset_optimizer_every=reset, average='macro'
    ),
    multilabel_metric='macro_f1',
    **rest,
  )


_PRESETS = (
  # The project's own. C from 0.01 to 100, standardised, fitted on train only.
  Protocol(
    'linear', 1, 'logistic', ('standardise',), 'rsfm_jax', grid=_grid(-2, 2, 9)
  ),
  _olmoearth(
    'trained_sweep',
    'rsfm_jax: whitened too, mean or std, the optimiser not reset',
    scalings=('none', 'whiten'),
    poolings=('mean', 'std'),
  ),
  _neighbours(
    'knn20_standardised',
    'olmoearth_k20',
    scaling='standardise',
    source='rsfm_jax: OlmoEarth rule on standardised features',
  ),
  _neighbours(
    'knn20_whitened',
    'olmoearth_k20',
    scaling='whiten',
    source='rsfm_jax: OlmoEarth rule on whitened features',
  ),
  # Other harnesses.
  _neighbours(
    'olmoearth_knn20',
    'olmoearth_k20',
    source='olmoearth_pretrain/evals/knn.py',
    multilabel_metric='macro_f1',
  ),
  _neighbours('galileo_knn5', 'galileo_k5', source='galileo src/eval/knn.py'),
  _neighbours('galileo_knn20', 'galileo_k20', source='galileo src/eval/knn.py'),
  *(
    _neighbours(
      f'{harness}_knn{k}',
      f'dinov2_k{k}',
      source=f'{harness}/eval/knn.py',
      multilabel=False,
    )
    for harness in ('dinov2', 'dinov3')  # One rule.
    for k in (10, 20, 100, 200)
  ),
  _neighbours(
    'pangaea_knn200',
    'pangaea_k200',
    source='pangaea/decoders/knnclassifier.py; the whole bank, not its tail '
    'dropped; F1 over the split, not averaged per batch',
  ),
  _neighbours(
    'torchgeobench_knn5',
    'torchgeobench_k5',
    source='torchgeo_bench/knn.py',
    version=2,  # 1 had micro-F1 in place of micro-mAP.
    multilabel_metric='micro_map',
  ),
  Protocol(
    'torchgeobench_linear',
    2,  # 1 had micro-F1 in place of micro-mAP.
    'logistic',
    ('none',),
    'torchgeo_bench/linear.py, solved to the optimum',
    grid=_grid(-6, 4, 40),
    refit='train_val',
    multilabel_metric='micro_map',
  ),
  Protocol(
    'dinov3_logreg',
    1,
    'logistic',
    ('none',),
    'dinov3/eval/log_regression.py; scaling and refit NOT FOUND, DEFAULT none '
    'and train',
    grid=_grid(-6, 5, 45),
    multilabel=False,
  ),
  Protocol(
    'galileo_lp',
    1,
    'adamw',
    ('none',),
    'galileo src/eval/linear_probe.py; one run, not the mean of five',
    # Sixteen rates from 1e-4 to 8e-1; the inner ones are a DEFAULT.
    grid=tuple(m * 10.0**e for e in range(-4, 0) for m in (1, 3, 5, 8)),
    recipe=probe.Recipe(),
  ),
  _olmoearth(
    'olmoearth_lp', 'the optimiser reset at each validation included', reset=5
  ),
  _olmoearth(
    'olmoearth_lp_continuous', 'the optimiser NOT reset, against the harness'
  ),
  _olmoearth(
    'olmoearth_lp_sweep',
    'full_eval_sweep.py over rates and pooling; of one normalisation of the '
    'pixels, the one that the row names',
    reset=5,
    poolings=('mean', 'max'),
  ),
)
PRESETS = {protocol.name: protocol for protocol in _PRESETS}


def get(name: str) -> Protocol:
  """The preset `name`.

  Raises:
    ValueError: there is no such preset.
  """
  return PRESETS[choices.check(name, PRESETS, key='protocol')]


def names() -> tuple[str, ...]:
  return tuple(PRESETS)
