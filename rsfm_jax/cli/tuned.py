"""A fine-tuned model: its best state, with the head."""

import pathlib
from typing import Any, NamedTuple

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import models
from rsfm_jax.core import files
from rsfm_jax.export import heads
from rsfm_jax.models import build
from rsfm_jax.tasks import spec as task_spec
from rsfm_jax.train import best
from rsfm_jax.train import checkpoint


class About(NamedTuple):
  """What is known of it without its parameters.

  Attributes:
    task: of the head.
    metadata: of the checkpoint: spec, contract.
    data: of the run's config: window, sensors.
  """

  task: task_spec.TaskSpec
  metadata: dict[str, Any]
  data: dict[str, Any]

  @property
  def classes(self) -> tuple[str, ...]:
    """Their names, where the store knew them."""
    return tuple(self.metadata['contract'].get('classes', ()))


class Tuned(NamedTuple):
  """One sensor's encoder and head.

  Attributes:
    about: the task, and what the run was.
    opened: the encoder alone.
    params: of both; see `heads.joined`.
  """

  about: About
  opened: models.Opened
  params: Any


def is_tuned(path: str | pathlib.Path) -> bool:
  """Whether a finished `rsfm finetune` left its best state there."""
  return (pathlib.Path(path) / best.BEST).is_dir()


def about(path: str | pathlib.Path, *, instead: str) -> About:
  """The task of the best state of a fine-tuning.

  Args:
    path: workdir of `rsfm finetune`.
    instead: what to ask for where there is none, for the error.

  Raises:
    ValueError: no task head.
  """
  root = pathlib.Path(path)
  found = checkpoint.metadata(root / best.BEST) if is_tuned(root) else {}
  if 'task' not in found.get('objective', {}):
    raise ValueError(
      f'{path} has no task head: give the workdir of a finished rsfm finetune,'
      f' or {instead}.'
    )
  task = configs.build(
    task_spec.TaskSpec, found['objective']['task'], key='task'
  )
  return About(task, found, files.read_json(root / 'config.json')['data'])


def open_tuned(path: str | pathlib.Path, *, instead: str) -> Tuned:
  """Reads the best state; see `about`.

  Raises:
    ValueError: no head, or not one for single images of one sensor.
  """
  known, folder = about(path, instead=instead), pathlib.Path(path) / best.BEST
  if known.data.get('sensors') or known.task.kind not in heads.WORDS:
    raise ValueError(
      f'{path}: its head sees more than one image of one sensor, or finds '
      f'boxes (task.kind={known.task.kind}); heads are exported for '
      f'{list(heads.WORDS)}. For its encoder {instead}.'
    )
  saved = checkpoint.load_params(folder)
  extra = checkpoint.load_params(folder, which='extra').params
  params = heads.joined(saved.params, extra or {})
  opened = models.opened_by(
    known.metadata['contract'],
    build.build(build.spec_from_json(known.metadata['spec'])),
    heads.parts(params)[0],
    content_hash=checkpoint.content_hash(saved.params),
    path=str(path),
    step=saved.step,
  )
  return Tuned(known, opened, params)
