"""The two sets of data of E003: synthetic scenes, and real stores."""

from collections.abc import Iterator, Mapping
import itertools
import pathlib
from typing import Any, NamedTuple

# Beside this file.
import frozen
import numpy as np

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import main
from rsfm_jax.cli import models
from rsfm_jax.cli.systems import mapex
from rsfm_jax.data import store as stores

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'
CALIBRATION = 8  # Batches of the training split.
PRETRAINING = (
  '--config.train.checkpoint_percent=25.0',
  '--config.train.keep=4',
)
Images = Mapping[str, np.ndarray]


class Task(NamedTuple):
  """What a model is pruned to, and what a probe feeds it."""

  keep: tuple[str, ...]
  feed: tuple[str, ...]


class Setting:
  """Data of a pre-training, and of what is asked of it.

  Attributes:
    name: 'scenes' or 'real'.
    config: of the pre-training, below `configs/`.
    labelled: the store that is probed and fine-tuned on.
    tasks: by name; the first is what fine-tuning is on.
    tuning: steps of fine-tuning.
  """

  name: str
  config: str
  labelled: str
  tasks: Mapping[str, Task]
  tuning: int

  def __init__(self, root: pathlib.Path):
    self.root = root

  def pretraining(self, *overrides: str) -> Any:
    return configs.load(
      str(CONFIGS / self.config),
      (*PRETRAINING, f'--config.data.root={self.root}', *overrides),
    )

  @property
  def store(self) -> stores.Store:
    return stores.Store(self.root / self.labelled)

  def make(self) -> None:
    """Makes the stores, unless they are there."""
    raise NotImplementedError

  def scenes(self, opened: models.Opened) -> frozen.Scenes:
    """What probes read."""
    raise NotImplementedError

  def calibration(
    self, opened: models.Opened, scenes: frozen.Scenes
  ) -> Iterator[Images]:
    """Images of the training split that routing is measured on, sensor by
    sensor: {sensor: f32[B, H, W, C]}."""
    raise NotImplementedError


class Synthetic(Setting):
  """Scenes of which every sensor sees every one, labelled."""

  name = 'scenes'
  config = 'pretrain/mapex_tiny.py'
  labelled = 'scenes'
  tasks = {
    's2_rgb': Task(('s2_rgb',), ('s2_rgb',)),
    's2_rgb + s1_vv': Task(('s2_rgb', 's1_vv'), ('s2_rgb', 's1_vv')),
  }
  tuning = 1050  # Twenty epochs.

  def make(self) -> None:
    if not (self.root / self.labelled / 'index.json').exists():
      command = (
        'data synthesize --samples 2400 --size 64 --workers 2 '
        '--sensors sentinel2_skysense,sentinel1_grd --out'
      )
      _run([*command.split(), str(self.root / self.labelled)])

  def scenes(self, opened: models.Opened) -> frozen.Scenes:
    return frozen.read(self.store, opened, opened.model.spec.sensors)

  def calibration(
    self, opened: models.Opened, scenes: frozen.Scenes
  ) -> Iterator[Images]:
    for sensor in opened.model.spec.sensors:
      for batch in scenes.batches['train'][:CALIBRATION]:
        yield {sensor: batch['image'][sensor]}


class Real(Setting):
  """Labelled colours of EuroSAT, and ten places with six groups of bands."""

  name = 'real'
  config = 'pretrain/mapex_tiny_real.py'
  labelled = 'opt_eurosat'
  # No two sensors have labels: what is pruned to two is fed one of them.
  tasks = {
    'opt': Task(('opt',), ('opt',)),
    'opt + s2_rgb': Task(('opt', 's2_rgb'), ('opt',)),
  }
  tuning = 1320  # Ten epochs.
  batches, chunk = 24, 32  # Of training; that routing is measured in.

  def __init__(self, root: pathlib.Path, shared: str):
    super().__init__(root)
    self.shared = shared

  def make(self) -> None:
    for recipe in ('real', 'places'):
      # What is packed is not packed again.
      command = f'data pack --recipe {recipe} --shared {self.shared} --out'
      _run([*command.split(), str(self.root)])

  def scenes(self, opened: models.Opened) -> frozen.Scenes:
    return frozen.read(self.store, opened, ('opt',))

  def calibration(
    self, opened: models.Opened, scenes: frozen.Scenes
  ) -> Iterator[Images]:
    """Crops as training draws them: all but `opt` come from ten places."""
    del scenes
    config = self.pretraining('--config.seed=1000')  # Not of a training.
    stream = mapex.batches(config, mapex.data(config), step=0)
    crops = list(itertools.islice(stream, self.batches))
    for sensor in opened.model.spec.sensors:
      images = np.concatenate(
        [np.asarray(c[sensor]['image'])[c[sensor]['valid']] for c in crops]
      )
      for begin in range(0, len(images) - self.chunk + 1, self.chunk):
        yield {sensor: images[begin : begin + self.chunk]}


def _run(words: list[str]) -> None:
  """A verb of `rsfm`; what failed has said why."""
  if code := main.main(words):
    raise SystemExit(code)
