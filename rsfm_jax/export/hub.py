"""A folder as Hugging Face's hub shows it: the model card, and the upload."""

from collections.abc import Mapping, Sequence
import importlib
import pathlib
from typing import Any, NamedTuple

from rsfm_jax.core import trees
from rsfm_jax.sensors import contract

_CARD = """\
---
license: {licence}
library_name: rsfm_jax
pipeline_tag: image-feature-extraction
tags:
- remote-sensing
- foundation-model
- mixture-of-experts
- {model}
---

# {title}

An encoder of satellite images of the system {model}, {parameters:,} parameters,
made with rsfm_jax.

## Sensors

{sensors}
These are the bands of the model, in order. What a graph takes, which may be
another product's bands and units, stands in the contract beside it; conversion,
choice of bands and normalisation by the training data are inside the graph.

## Files

{files}
Every graph has its contract beside it (`.json`): inputs, outputs, bands, units,
batch. `parity.json` holds the largest differences from the JAX model.

## Intended use

Features of images of the sensors above, frozen or as the start of fine-tuning.
It was not made to identify people, and its features say nothing about places,
seasons, or sensors that it was not trained on unless that has been measured.

## Metrics

{metrics}
## Origin

* content hash of the parameters: `{content_hash}`
* parent: `{parent}`
* step: {step}
* licence of the weights: {licence_words}
"""


class Origin(NamedTuple):
  """Where the weights come from.

  Attributes:
    content_hash: of the parameters.
    parent: content hash of the model they were cut from, or ''.
    step: of the run, or None.
  """

  content_hash: str
  parent: str = ''
  step: int | None = None


def card(
  *,
  title: str,
  spec: Mapping[str, Any],
  params: Any,
  sensors: Mapping[str, contract.Sensor],
  names: Sequence[str],
  origin: Origin,
  licence: str,
  metrics: str,
) -> str:
  """README.md of a model.

  Args:
    title: name of the model.
    spec: its spec as JSON.
    params: its parameters.
    sensors: contracts of the model.
    names: files of the folder.
    origin: see `Origin`.
    licence: identifier of the hub, or 'unknown'.
    metrics: Markdown of what was measured, or ''.
  """
  stated = licence != 'unknown'
  return _CARD.format(
    licence=licence,
    model=spec['model'],
    title=title,
    parameters=trees.count(params),
    sensors=_sensors(sensors),
    files=''.join(f'* `{name}`\n' for name in sorted(names)),
    metrics=metrics or 'None were recorded beside the weights.\n',
    content_hash=origin.content_hash,
    parent=origin.parent or 'none',
    step='none' if origin.step is None else origin.step,
    licence_words=licence if stated else 'not stated; ask before you use them',
  )


def _sensors(sensors: Mapping[str, contract.Sensor]) -> str:
  lines = ['| sensor | bands | units | nodata |', '|---|---|---|---|']
  for name, sensor in sensors.items():
    units = ', '.join(dict.fromkeys(str(band.units) for band in sensor.bands))
    nodata = 'none' if sensor.nodata is None else f'{sensor.nodata:g}'
    bands = ', '.join(sensor.band_names)
    lines.append(f'| {name} | {bands} | {units} | {nodata} |')
  return '\n'.join(lines) + '\n'


def library() -> Any:
  """huggingface_hub, which only an upload needs.

  Raises:
    ValueError: it is not installed.
  """
  try:
    return importlib.import_module('huggingface_hub')
  except ModuleNotFoundError as error:
    raise ValueError(
      "--push needs huggingface_hub: pip install 'rsfm-jax[text]', or upload "
      'the folder by hand.'
    ) from error


def push(folder: pathlib.Path, repository: str) -> str:
  """Uploads a whole folder; returns the address of the commit.

  Args:
    folder: as `rsfm export` wrote it.
    repository: 'owner/name'; made if it is not there.

  Raises:
    ValueError: not installed, or no such name.
    RuntimeError: the hub refused or could not be reached; the folder stays.
  """
  hub = library()
  try:
    api = hub.HfApi()
    api.create_repo(repository, exist_ok=True)
    done = api.upload_folder(
      repo_id=repository,
      folder_path=str(folder),
      commit_message='Model exported by rsfm_jax',
    )
  # Each of its layers (HTTP, names, tokens) has errors of its own.
  except Exception as error:
    words = str(error).strip().splitlines() or [type(error).__name__]
    raise RuntimeError(
      f'{folder} is whole, but --push {repository} failed: {words[0]}'
    ) from error
  return str(done)
