"""A small text tower with random weights against loops over tokens."""

import json
import math
import sys
import types

import numpy as np
import pytest
import safetensors.numpy

from rsfm_jax.models import clip_text

V, L, D, HEADS, LAYERS, E = 20, 8, 12, 3, 2, 5
_ROOT = 'text_model.encoder.layers'


def _weights(seed=0):
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return rng.normal(size=shape).astype(np.float32) / math.sqrt(shape[-1])

  out = {
    'text_model.embeddings.token_embedding.weight': draw(V, D),
    'text_model.embeddings.position_embedding.weight': draw(L, D),
    'text_model.final_layer_norm.weight': 1 + draw(D),
    'text_model.final_layer_norm.bias': draw(D),
    'text_projection.weight': draw(E, D),
    'vision_model.class_embedding': draw(D),
  }
  for i in range(LAYERS):
    for name in ('layer_norm1', 'layer_norm2'):
      out[f'{_ROOT}.{i}.{name}.weight'] = 1 + draw(D)
      out[f'{_ROOT}.{i}.{name}.bias'] = draw(D)
    shapes = {f'self_attn.{p}_proj': (D, D) for p in ('q', 'k', 'v', 'out')}
    shapes |= {'mlp.fc1': (4 * D, D), 'mlp.fc2': (D, 4 * D)}
    for name, shape in shapes.items():
      out[f'{_ROOT}.{i}.{name}.weight'] = draw(*shape)
      out[f'{_ROOT}.{i}.{name}.bias'] = draw(shape[0])
  return out


def _oracle(w, tokens):
  """The vectors of all tokens after the last norm, one number at a time."""

  def dense(name, x):
    return w[f'{name}.weight'].astype(float) @ x + w[f'{name}.bias']

  def norm(name, x):
    x = (x - x.mean()) / math.sqrt(x.var() + 1e-5)
    return x * w[f'{name}.weight'] + w[f'{name}.bias']

  table = w['text_model.embeddings.token_embedding.weight']
  places = w['text_model.embeddings.position_embedding.weight']
  xs = [table[t].astype(float) + places[i] for i, t in enumerate(tokens)]
  k = D // HEADS
  for i in range(LAYERS):
    name = f'{_ROOT}.{i}'
    normed = [norm(f'{name}.layer_norm1', x) for x in xs]
    q, key, v = (
      [dense(f'{name}.self_attn.{p}_proj', x) for x in normed] for p in 'qkv'
    )
    for t in range(len(xs)):
      mixed = np.zeros(D)
      for head in range(HEADS):
        part = slice(head * k, head * k + k)
        e = [
          math.exp(q[t][part] @ key[s][part] / math.sqrt(k))
          for s in range(t + 1)
        ]
        for s in range(t + 1):
          mixed[part] += e[s] / sum(e) * v[s][part]
      xs[t] = xs[t] + dense(f'{name}.self_attn.out_proj', mixed)
    for t, x in enumerate(xs):
      h = dense(f'{name}.mlp.fc1', norm(f'{name}.layer_norm2', x))
      h = h / (1 + np.exp(-1.702 * h))
      xs[t] = x + dense(f'{name}.mlp.fc2', h)
  xs = [norm('text_model.final_layer_norm', x) for x in xs]
  return np.stack(xs) @ w['text_projection.weight'].T


@pytest.fixture
def folder(tmp_path):
  config = {
    'text_config': {
      'num_hidden_layers': LAYERS,
      'num_attention_heads': HEADS,
      'hidden_act': 'quick_gelu',
      'eos_token_id': 2,
    }
  }
  (tmp_path / 'config.json').write_text(json.dumps(config))
  (tmp_path / 'tokenizer.json').write_text('{}')
  safetensors.numpy.save_file(_weights(), tmp_path / 'model.safetensors')
  return tmp_path


def test_the_tower_is_that_of_loops_over_tokens(folder):
  tower = clip_text.TextTower.load(folder)
  tokens = [18, 3, 2, 7, 19]
  expected = _oracle(_weights(), tokens)
  np.testing.assert_allclose(tower(tokens), expected[-1], rtol=1e-4, atol=1e-5)
  assert not any(name.startswith('vision') for name in tower.weights)


def test_the_end_of_the_text_is_where_its_token_is(folder):
  tokens = [18, 3, 19, 7, 5]
  expected = _oracle(_weights(), tokens)
  tower = clip_text.TextTower.load(folder)
  np.testing.assert_allclose(tower(tokens), expected[2], rtol=1e-4, atol=1e-5)
  config = json.loads((folder / 'config.json').read_text())
  config['text_config']['eos_token_id'] = 7
  (folder / 'config.json').write_text(json.dumps(config))
  named = clip_text.TextTower.load(folder)
  np.testing.assert_allclose(named(tokens), expected[3], rtol=1e-4, atol=1e-5)


def test_a_text_that_is_too_long_is_an_error(folder):
  with pytest.raises(ValueError, match='9 tokens; 1 to 8'):
    clip_text.TextTower.load(folder)([1] * 9)


def test_folders_that_are_no_model_are_named(folder):
  weights = _weights()
  del weights['text_projection.weight']
  safetensors.numpy.save_file(weights, folder / 'model.safetensors')
  with pytest.raises(ValueError, match='text_projection'):
    clip_text.TextTower.load(folder)
  (folder / 'tokenizer.json').unlink()
  with pytest.raises(ValueError, match='no tokenizer.json'):
    clip_text.TextTower.load(folder)


def _tokenizers(monkeypatch):
  """Stands for the optional library: letters are tokens, 19 ends a text."""

  class Tokenizer:
    @classmethod
    def from_file(cls, path):
      assert path.endswith('tokenizer.json')
      return cls()

    def no_padding(self):
      pass

    no_truncation = no_padding

    def encode(self, text):
      ids = [18, *(ord(letter) % 17 for letter in text), 19]
      return types.SimpleNamespace(ids=ids)

  module = types.SimpleNamespace(Tokenizer=Tokenizer)
  monkeypatch.setitem(sys.modules, 'tokenizers', module)


def test_texts_are_put_into_the_template(folder, monkeypatch):
  _tokenizers(monkeypatch)
  vectors = clip_text.encode(str(folder), ['a', 'bc'], template='x{}')
  assert vectors.shape == (2, E)
  tower = clip_text.TextTower.load(folder)
  ids = [18, *(ord(letter) % 17 for letter in 'xbc'), 19]
  np.testing.assert_array_equal(vectors[1], tower(ids))
  with pytest.raises(ValueError, match='template'):
    clip_text.encode(str(folder), ['a'], template='no place')


def test_what_is_missing_is_said(folder, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tokenizers', None)
  with pytest.raises(RuntimeError, match=r'rsfm-jax\[text\].*--fallback'):
    clip_text.encode(str(folder), ['a'])
  _tokenizers(monkeypatch)
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(RuntimeError, match='no/folder needs huggingface_hub'):
    clip_text.encode('no/folder', ['a'])
