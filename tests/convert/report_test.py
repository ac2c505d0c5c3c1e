"""What is told about an import."""

import json

import numpy as np
import pytest

from tests.convert import tiny_models
from tests.convert import torch_models


@pytest.fixture(scope='module')
def report():
  tensors = torch_models.swin_v2() | {'head.fc.weight': np.zeros((5, 8))}
  return tiny_models.filled(
    tensors, 'timm_swinv2', tiny_models.ringmoe_spec(), noise=0.01
  ).report


def row(report, name):
  return next(r for r in report.tensors if r.name == name)


def test_layout_alone_is_use_and_new_numbers_are_adaptation(report):
  assert row(report, 'norm.weight').status == 'used'
  qkv = row(report, 'layers.0.blocks.0.attn.qkv.weight')
  assert qkv.status == 'used'
  assert qkv.to == tuple(
    f'stage_0/blocks/attention/{n}/kernel' for n in ('key', 'query', 'value')
  )
  fc1 = row(report, 'layers.0.blocks.0.mlp.fc1.weight')
  assert fc1.status == 'adapted'
  assert 'noise 0.01' in fc1.how
  assert row(report, 'head.fc.weight').status == 'skipped'


def test_json_holds_every_row(report):
  value = json.loads(json.dumps(report.to_json()))
  assert len(value['tensors']) == len(report.tensors)
  assert len(value['parameters']) == len(report.parameters)
  init = [r for r in value['parameters'] if not r['sources']]
  assert {r['how'] for r in init} >= {'routers start as initialised'}


def test_the_table_puts_what_is_alike_in_one_line(report):
  lines = report.table().splitlines()
  (norms,) = [
    x for x in lines if x.startswith('layers.*.blocks.*.norm*.weight')
  ]
  assert norms.split()[1:3] == ['4', 'used']
  assert any(x.startswith('mask_token') for x in lines)
  assert any('tanh form' in x for x in lines if x.startswith('note:'))


def test_the_right_source_is_suggested():
  """Older files of timm count merges with the stage before."""
  tensors = {
    name.replace('layers.1.downsample', 'layers.0.downsample'): x
    for name, x in torch_models.swin_v2().items()
  }
  spec = tiny_models.ringmoe_spec()
  found = tiny_models.filled(tensors, 'timm_swinv2', spec).report
  with pytest.raises(ValueError, match='known to --from microsoft_swinv2'):
    found.check()
  tiny_models.filled(tensors, 'microsoft_swinv2', spec).report.check()


def test_a_file_of_something_else():
  found = tiny_models.filled(
    {'conv1.weight': np.zeros((1, 1))},
    'timm_swinv2',
    tiny_models.ringmoe_spec(),
  )
  with pytest.raises(ValueError, match="none of the 1 tensors.*'conv1.weight'"):
    found.report.check()
