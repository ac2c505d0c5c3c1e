"""SkySense V2's ablations (arXiv 2507.13812, section 4.4) by name.

Question: what is each component worth? Command: `rsfm pretrain --config
configs/ablation/skysense_v2.py:SIZE,NAME`, SIZE `tiny` or `huge`, NAME one of
`VARIANTS`; everything else is that of `configs/pretrain/skysense_v2_SIZE.py`,
and further `--config.` overrides apply. The paper trains each for 20,000 steps
and probes by k-NN.

  base, ga, msp, moe, full   Figure 7: + global attention, + modality-specific
                             prompts, + experts, + QSACL, one after the other
  no_NAME                    full without one component (Table 10: no_ita)
  experts_M                  Table 14, M experts; the paper's is 8
  layers_L                   Table 15, experts in the last L blocks; 6
  spread                     Table 16, the same number, evenly over all blocks
  queries_m                  Table 18, m queries; 16
  reduce_n                   Table 11, merges that halve the grid of the first
                             sensor; 3. The paper changes them downstream, of
                             one checkpoint; the model's `reduces` does so
"""

from collections.abc import Mapping
import importlib
from typing import Any

_DENSE = {'model.experts': 0, 'objective.aux_weight': 0.0}
_NO_PROMPTS = {'model.prompts': 0}
# Windows everywhere have no tokens beside the grid.
_WINDOWS = {'model.global_attention': False} | _NO_PROMPTS
_NO_QUERIES = {'objective.qsacl_weight': 0.0}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
  'base': _WINDOWS | _DENSE | _NO_QUERIES,
  'ga': _NO_PROMPTS | _DENSE | _NO_QUERIES,
  'msp': _DENSE | _NO_QUERIES,
  'moe': _NO_QUERIES,
  'full': {},
  'no_ga': _WINDOWS,
  'no_msp': _NO_PROMPTS,
  'no_moe': _DENSE,
  'no_qsacl': _NO_QUERIES,
  'no_ita': {'objective.ita_weight': 0.0},
  **{f'experts_{m}': {'model.experts': m} for m in (4, 8, 16)},
  **{f'layers_{n}': {'model.moe_layers': n} for n in (2, 4, 6, 8)},
  'spread': {'model.moe_placement': 'spread'},
  **{f'queries_{m}': {'objective.queries': m} for m in (4, 8, 16, 24)},
  **{f'reduce_{n}': {'reduces': n} for n in range(4)},
}
SIZES = ('tiny', 'huge')


def get_config(text='tiny,full'):
  size, _, name = text.partition(',')
  if size not in SIZES or name not in VARIANTS:
    raise ValueError(
      f'{text!r} is not SIZE,NAME of {SIZES} and {tuple(VARIANTS)}.'
    )
  module = importlib.import_module(f'configs.pretrain.skysense_v2_{size}')
  c, changes = module.get_config(), dict(VARIANTS[name])
  if 'reduces' in changes:
    count = changes.pop('reduces')
    first = tuple(i < count for i in range(3))
    changes['model.reduces'] = (first, *c.model.reduces[1:])
  c.update_from_flattened_dict(changes)
  return c
