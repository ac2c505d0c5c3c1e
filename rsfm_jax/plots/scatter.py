"""Pooled features as points, coloured by class: what lies near what.

As Figure 8 of SkySense V2 (arXiv 2507.13812) shows features with and without
prompts; by principal components, which need no seed and keep distances.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from rsfm_jax.plots import components
from rsfm_jax.plots import theme

MARKERS = ('o', '^', 's', 'D', 'v', 'P')


@theme.styled
def figure(
  features: Mapping[str, np.ndarray],
  labels: np.ndarray,
  *,
  classes: Sequence[str],
) -> theme.Figure:
  """Panels of equal samples, each by its own two leading components.

  Args:
    features: {title: f[N, F]}, one panel each.
    labels: int[N].
    classes: K names.

  Raises:
    ValueError: no features, labels of another number, or that are no class.
  """
  labels = np.asarray(labels)
  if not features:
    raise ValueError('a scatter needs features of at least one model.')
  for title, values in features.items():
    if len(values) != len(labels):
      raise ValueError(
        f'{title}: {len(values)} features, {len(labels)} labels.'
      )
  if labels.size and not 0 <= labels.min() <= labels.max() < len(classes):
    raise ValueError(
      f'labels {labels.min()}..{labels.max()} are not all of the '
      f'{len(classes)} classes.'
    )
  width = min(theme.WIDTH, 0.6 + 4.6 * len(features))
  out, grid = theme.panels(len(features), width=width, height=4.4)
  for axes, (title, values) in zip(grid[0], features.items(), strict=True):
    found = components.principal(values, 2)
    for k, name in enumerate(classes):
      here = found.values[labels == k]
      axes.scatter(
        *here.T,
        s=14,
        alpha=0.75,
        linewidths=0,
        color=theme.SERIES[k % len(theme.SERIES)],
        marker=MARKERS[k // len(theme.SERIES) % len(MARKERS)],
        label=name,
      )
    axes.set_title(title)
    axes.set_xlabel(f'component 1, {found.shares[0]:.0%} of the variance')
    axes.set_ylabel(f'component 2, {found.shares[1]:.0%}')
    axes.set_xticks([])
    axes.set_yticks([])
  handles, names = grid[0, 0].get_legend_handles_labels()
  out.legend(handles, names, loc='outside lower left', ncols=6)
  return out
