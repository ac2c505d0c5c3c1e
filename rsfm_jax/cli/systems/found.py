"""What a run's stores hold, whatever reads them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from rsfm_jax.sensors import contract
from rsfm_jax.sensors import statistics


class Data(NamedTuple):
  """The streams of a run and what the checkpoint must know of them.

  Attributes:
    streams: in the order of the config.
    contracts: per sensor of the model.
    statistics: per sensor, merged over the run's stores.
    batch_size: samples per step, all sensors.
    dataset_size: samples of the stores, all sensors, repeats not counted.
    classes: names of what a head tells apart, where the store knows them.
  """

  streams: list[Any]
  contracts: dict[str, contract.Sensor]
  statistics: dict[str, statistics.Statistics]
  batch_size: int
  dataset_size: int
  classes: Sequence[str] = ()
