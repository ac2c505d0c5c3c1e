"""How a preset says whose rules it states.

A preset is a config with a name and a version, which stand in every row of its
results. Its rules are what the harness lays down. What belongs to a data set or
a model (store, sensor, target, classes, the maps that a head reads) is set from
outside, by overrides; an override that breaks a rule is named in the rows under
`chosen/changed`, so that no number passes for a harness's that is not.
"""

from collections.abc import Mapping
import json
from typing import Any

from ml_collections import config_dict

# UPerNet and U-Net read one map per stage; a model of three stages needs
# --config.task.levels="('stage_0','stage_1','stage_2')".
PYRAMID = ('stage_0', 'stage_1', 'stage_2', 'stage_3')
# torch's AdamW decays every parameter.
ALL_DECAY = ((r'.*', True),)


def state(
  config: config_dict.ConfigDict,
  name: str,
  version: int,
  rules: Mapping[str, Any],
) -> config_dict.ConfigDict:
  """The config under the rules {'section.key': value} of a preset."""
  config.update_from_flattened_dict(rules)
  config.protocol.update(
    name=name,
    version=version,
    rules=tuple(f'{key}={json.dumps(v)}' for key, v in rules.items()),
  )
  return config


def choose(task: str, tasks: Mapping[str, Any]) -> Any:
  """What a preset says of a task, the word after the colon of --config."""
  if task not in tasks:
    raise ValueError(f'task {task!r} must be one of {sorted(tasks)}.')
  return tasks[task]
