"""Random tensors by the names and shapes of PyTorch models, very small."""

import numpy as np

from rsfm_jax.core import trees
from rsfm_jax.models import build


def swin_v2(*, dim=4, depths=(1, 1), heads=(1, 2), patch=2, bands=3, ratio=2):
  """By timm's names."""
  add, tensors = _collector()
  add('patch_embed.proj', (dim, bands, patch, patch), dim)
  add('patch_embed.norm', (dim,), dim)
  for stage, depth in enumerate(depths):
    width = dim * 2**stage
    if stage:
      name = f'layers.{stage}.downsample'
      add(f'{name}.reduction', (width, 2 * width))
      add(f'{name}.norm', (width,), width)
    for i in range(depth):
      block = f'layers.{stage}.blocks.{i}'
      tensors[f'{block}.attn.logit_scale'] = np.full(
        (heads[stage], 1, 1), np.log(10), np.float32
      )
      tensors[f'{block}.attn.q_bias'] = np.zeros(width, np.float32)
      tensors[f'{block}.attn.v_bias'] = np.zeros(width, np.float32)
      add(f'{block}.attn.cpb_mlp.0', (512, 2), 512)
      add(f'{block}.attn.cpb_mlp.2', (heads[stage], 512))
      add(f'{block}.attn.qkv', (3 * width, width))
      add(f'{block}.attn.proj', (width, width), width)
      _ffn(add, block, width, ratio)
  add('norm', (width,), width)
  return tensors


def vit(*, dim=8, depth=2, patch=4, bands=3, grid=4, ratio=2, scaled=False):
  """By the names of timm, MAE and DINOv2; `scaled`: with layer scale."""
  add, tensors = _collector()
  add('patch_embed.proj', (dim, bands, patch, patch), dim)
  tensors['cls_token'] = np.ones((1, 1, dim), np.float32)
  add('pos_embed', (1, grid**2 + 1, dim), suffix='')
  for i in range(depth):
    add(f'blocks.{i}.attn.qkv', (3 * dim, dim), 3 * dim)
    add(f'blocks.{i}.attn.proj', (dim, dim), dim)
    _ffn(add, f'blocks.{i}', dim, ratio)
    if scaled:
      add(f'blocks.{i}.ls1.gamma', (dim,), suffix='')
      add(f'blocks.{i}.ls2.gamma', (dim,), suffix='')
  add('norm', (dim,), dim)
  return tensors


def initial(spec):
  """Parameters of a model without compiling its initialisation."""
  draw = np.random.default_rng(1).standard_normal
  return trees.map_named(
    lambda name, x: 0.02 * draw(x.shape, np.float32),
    build.build(spec).abstract,
  )


def _collector():
  tensors, generator = {}, np.random.default_rng(0)

  def add(name, shape, bias=None, suffix='.weight'):
    tensors[f'{name}{suffix}'] = generator.standard_normal(shape, np.float32)
    if bias:
      tensors[f'{name}.bias'] = generator.standard_normal(bias, np.float32)

  return add, tensors


def _ffn(add, block, width, ratio):
  add(f'{block}.norm1', (width,), width)
  add(f'{block}.norm2', (width,), width)
  add(f'{block}.mlp.fc1', (ratio * width, width), ratio * width)
  add(f'{block}.mlp.fc2', (width, ratio * width), width)
