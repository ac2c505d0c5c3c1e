"""The text tower of CLIP, in NumPy, from the published files.

Radford et al., "Learning transferable visual models from natural language
supervision", 2021, section 2.4: pre-norm layers under a causal mask, a final
norm, the vector at the end of the text, and a projection. It is run once per
list of classes, so nothing here has to be fast; it needs no torch.

The folder of a model holds `config.json`, `model.safetensors` and
`tokenizer.json`, as they are published for 'openai/clip-vit-large-patch14'.
"""

from collections.abc import Callable, Sequence
import dataclasses
import importlib
import os
import pathlib
from typing import Any, Self

import numpy as np
import safetensors
from scipy import special

from rsfm_jax.core import choices
from rsfm_jax.core import files

_FILES = ('config.json', 'model.safetensors', 'tokenizer.json')
_OLD_END = 2  # What old configs say of a vocabulary that ends elsewhere.

_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'quick_gelu': lambda x: x * special.expit(1.702 * x),
  'gelu': lambda x: x * special.ndtr(x),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTower:
  """Tokens to a vector. Dimensions: V vocabulary, L positions, D width.

  Attributes:
    weights: by published name, float32.
    layers: how many.
    heads: of attention.
    activation: of the MLP.
    epsilon: of the norms.
    end: token that ends a text; None where it is the largest number.
  """

  weights: dict[str, np.ndarray]
  layers: int
  heads: int
  activation: str = 'quick_gelu'
  epsilon: float = 1e-5
  end: int | None = None

  @classmethod
  def load(cls, folder: files.Path) -> Self:
    """Reads config and weights; the image tower stays on disk.

    Raises:
      ValueError: a file is missing, damaged or of another kind of model.
    """
    folder = pathlib.Path(folder)
    for name in _FILES:
      if not (folder / name).is_file():
        raise ValueError(f'--clip {folder} has no {name}; it needs {_FILES}.')
    config = files.read_json(folder / 'config.json')
    config = config.get('text_config') or config
    try:
      path = os.fspath(folder / 'model.safetensors')
      with safetensors.safe_open(path, framework='numpy') as content:
        weights = {
          name: content.get_tensor(name).astype(np.float32)
          for name in sorted(content.keys())
          if name.startswith('text_')
        }
      activation = config.get('hidden_act', 'quick_gelu')
      choices.check(activation, _ACTIVATIONS, key=f'{folder}: hidden_act')
      end = config.get('eos_token_id', _OLD_END)
      tower = cls(
        weights=weights,
        # What a config leaves out has the size of the base model.
        layers=config.get('num_hidden_layers', 12),
        heads=config.get('num_attention_heads', 8),
        activation=activation,
        epsilon=config.get('layer_norm_eps', 1e-5),
        end=None if end == _OLD_END else end,
      )
      tower([0])  # So that a missing weight is found here.
    except (KeyError, TypeError, safetensors.SafetensorError) as error:
      raise ValueError(
        f'{folder} is not a CLIP model with a text tower: {error!r}.'
      ) from error
    return tower

  def __call__(self, tokens: Sequence[int]) -> np.ndarray:
    """The projected vector of one text: f32 [E], not normalised.

    Args:
      tokens: int [T] with begin and end, T at most L.

    Raises:
      ValueError: the text is too long.
    """
    tokens = np.asarray(tokens)
    table = self.weights['text_model.embeddings.token_embedding.weight']
    places = self.weights['text_model.embeddings.position_embedding.weight']
    if not 0 < len(tokens) <= len(places):
      raise ValueError(f'{len(tokens)} tokens; 1 to {len(places)} are allowed.')
    x = table[tokens] + places[: len(tokens)]
    for i in range(self.layers):
      name = f'text_model.encoder.layers.{i}'
      x = x + self._attention(
        f'{name}.self_attn', self._norm(f'{name}.layer_norm1', x)
      )
      x = x + self._mlp(f'{name}.mlp', self._norm(f'{name}.layer_norm2', x))
    x = self._norm('text_model.final_layer_norm', x)
    ends = tokens == (tokens.max() if self.end is None else self.end)
    # Where no token ends the text, the first one is taken, as published.
    return x[int(np.argmax(ends))] @ self.weights['text_projection.weight'].T

  def _dense(self, name: str, x: np.ndarray) -> np.ndarray:
    weights = self.weights
    return x @ weights[f'{name}.weight'].T + weights[f'{name}.bias']

  def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    variance = np.square(centred).mean(-1, keepdims=True)
    x = centred / np.sqrt(variance + self.epsilon)
    return x * self.weights[f'{name}.weight'] + self.weights[f'{name}.bias']

  def _mlp(self, name: str, x: np.ndarray) -> np.ndarray:
    hidden = _ACTIVATIONS[self.activation](self._dense(f'{name}.fc1', x))
    return self._dense(f'{name}.fc2', hidden)

  def _attention(self, name: str, x: np.ndarray) -> np.ndarray:
    """x: [T, D]; a token sees itself and those before it."""
    q, k, v = (
      self._dense(f'{name}.{part}_proj', x)
      .reshape(len(x), self.heads, -1)
      .swapaxes(0, 1)
      for part in 'qkv'
    )
    scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
    scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
    mixed = special.softmax(scores, axis=-1) @ v
    mixed = mixed.swapaxes(0, 1).reshape(len(x), -1)
    return self._dense(f'{name}.out_proj', mixed)


def encode(
  model: str, texts: Sequence[str], *, template: str = '{}'
) -> np.ndarray:
  """Vectors of texts: f32 [K, E], not normalised.

  Args:
    model: a folder, or a name on the Hugging Face hub.
    texts: such as names of classes.
    template: what a text is put into, at `{}`.

  Raises:
    ValueError: not a CLIP model, or a template without a place.
    RuntimeError: the optional libraries or the files cannot be had.
  """
  if template.count('{}') != 1:
    raise ValueError(f'template={template!r} must have one {{}} for the name.')
  library = _library('tokenizers', model)
  folder = _folder(model)
  tower = TextTower.load(folder)
  tokenizer = library.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  tokenizer.no_padding()
  tokenizer.no_truncation()
  return np.stack(
    [tower(tokenizer.encode(template.replace('{}', t)).ids) for t in texts]
  )


def _folder(model: str) -> pathlib.Path:
  """The folder of a model, fetched from the hub where it is none."""
  folder = pathlib.Path(model)
  if folder.is_dir():
    return folder
  hub = _library('huggingface_hub', model)
  try:
    return pathlib.Path(
      hub.snapshot_download(model, allow_patterns=list(_FILES))
    )
  except Exception as error:  # Whatever a network does; the hub has its own.
    raise RuntimeError(
      f'--clip {model} is no folder, and could not be fetched: {error}'
    ) from error


def _library(name: str, model: str) -> Any:
  # Only who makes a table from CLIP needs them: they are an extra.
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise RuntimeError(
      f'--clip {model} needs {name}: pip install "rsfm-jax[text]" ({error}). '
      'Without it, --import a table or ask for --fallback.'
    ) from error
