"""The model card, and the upload."""

import types

import numpy as np
import pytest

from rsfm_jax.export import hub
from rsfm_jax.sensors import catalogue

ORIGIN = hub.Origin('0123', 'abcd', 7)


def card(**changes):
  return hub.card(
    **{
      'title': 'small',
      'spec': {'model': 'ringmoe'},
      'params': {'w': np.zeros(1234)},
      'sensors': {'ms': catalogue.get('ms')},
      'names': ['model.safetensors', 'encoder_ms.onnx'],
      'origin': ORIGIN,
      'licence': 'apache-2.0',
      'metrics': '| knn | 0.5 |\n',
    }
    | changes
  )


def test_a_card_tells_what_a_user_has_to_know():
  text = card()
  head, body = text.split('---\n')[1:3]
  assert 'license: apache-2.0' in head and '- ringmoe' in head
  for words in (
    '1,234 parameters',
    '| ms | blue, green, red, nir | reflectance | none |',
    '* `encoder_ms.onnx`',
    '| knn | 0.5 |',
    '`0123`',
    '`abcd`',
    'step: 7',
    '## Intended use',
  ):
    assert words in body


def test_what_is_not_known_is_said():
  text = card(origin=hub.Origin('0123'), licence='unknown', metrics='')
  assert 'license: unknown' in text and 'not stated' in text
  assert 'parent: `none`' in text and 'step: none' in text
  assert 'None were recorded' in text


def test_a_folder_is_uploaded_whole(tmp_path, monkeypatch):
  calls = []

  class Api:
    def create_repo(self, name, *, exist_ok):
      calls.append((name, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
      calls.append((repo_id, folder_path))
      return 'https://address'

  library = types.SimpleNamespace(HfApi=Api)
  monkeypatch.setattr(hub.importlib, 'import_module', lambda name: library)
  assert hub.push(tmp_path, 'me/model') == 'https://address'
  assert calls == [('me/model', True), ('me/model', str(tmp_path))]


def test_a_hub_out_of_reach_is_one_line_and_the_folder_stays(
  tmp_path, monkeypatch
):
  class Api:
    def create_repo(self, name, *, exist_ok):
      raise ConnectionError('no route to host\nmore')

  library = types.SimpleNamespace(HfApi=Api)
  monkeypatch.setattr(hub.importlib, 'import_module', lambda name: library)
  with pytest.raises(RuntimeError, match='is whole, .* no route to host$'):
    hub.push(tmp_path, 'me/model')


def test_the_library_is_optional(tmp_path, monkeypatch):
  def missing(name):
    raise ModuleNotFoundError(name=name)

  monkeypatch.setattr(hub.importlib, 'import_module', missing)
  with pytest.raises(ValueError, match=r'rsfm-jax\[text\]'):
    hub.push(tmp_path, 'me/model')
