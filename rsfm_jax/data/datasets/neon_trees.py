"""Crowns of trees at Teakettle: twelve aerial images of 40 m, 0.1 m pixels.

A sample of NEON's data as DeepForest's repository has it (README of the
samples, neon_teak_rgb_boxes_chm), divided by its `splits.csv` into train and
test.
"""

from collections.abc import Mapping
import pathlib

from rsfm_jax.data import annotations
from rsfm_jax.data import pack
from rsfm_jax.data import recipe
from rsfm_jax.data import splits


def jobs(shared: str) -> Mapping[str, pack.Job]:
  """{store: job}; `shared` is the folder that holds `data`."""
  folder = pathlib.Path(shared) / 'data' / 'neon_teak_rgb_boxes_chm'
  told = annotations.Annotations(
    form='bndbox',
    classes=('Tree',),
    aliases=(('Tree\\', 'Tree'),),
    images=r'rgb/(\w+)\.tif',
    beside=r'boxes_voc/\1.xml',
  )
  return {
    'neon_trees': pack.Job(
      source=str(folder),
      name='neon_trees',
      table=str(folder / 'splits.csv'),
      recipe=recipe.Recipe(
        sensor='opt',
        split=splits.Policy(kind='table'),
        licence='MIT',
        boxes=told,
      ),
    )
  }
