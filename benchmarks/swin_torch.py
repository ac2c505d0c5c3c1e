"""A dense Swin V2 train step in PyTorch: what this GPU does elsewhere.

timm's Swin V2 in the size of RingMoE's dense twin: its FFNs as wide as what a
token of RingMoE activates. Every image has three bands; 60 % of its tokens are
replaced, a linear decoder and an L1 loss follow, AdamW updates. Weights in
float32, matrices in bfloat16 by autocast, compiled by torch.compile. So it is
the trunk that is compared: no sensors, no routing. torch and timm are no
dependency of this project; without them, or without a GPU, nothing is measured
and a line says so.

  python benchmarks/swin_torch.py [--size base] [--images 128] [--json FILE]
"""

import argparse
import dataclasses
import importlib
import importlib.util
import statistics
import time
from typing import Any

import numpy as np

from rsfm_jax.cli import bench
from rsfm_jax.models import ringmoe
from rsfm_jax.models import sizes

_MASKED = 0.6


def missing(device: str) -> str | None:
  """Why nothing can be measured here, or None."""
  for name in ('torch', 'timm'):
    if importlib.util.find_spec(name) is None:
      return f'{name} is not installed'
  # By name: no file of this project depends on torch, this one offers it a
  # comparison where it happens to be installed.
  torch = importlib.import_module('torch')
  if device == 'cuda' and not torch.cuda.is_available():
    return 'torch sees no GPU'
  return None


def make(spec: ringmoe.RingMoESpec, images: int, device: str, mode: str):
  """`() -> loss` that does one step; autocast, compiled unless 'eager'."""
  torch = importlib.import_module('torch')
  timm = importlib.import_module('timm.models.swin_transformer_v2')
  torch.manual_seed(0)
  torch.set_float32_matmul_precision('high')
  trunk = timm.SwinTransformerV2(
    img_size=spec.image_size,
    patch_size=spec.patch_size,
    num_classes=0,
    embed_dim=spec.embed_dim,
    depths=spec.depths,
    num_heads=spec.heads,
    window_size=spec.window,
    mlp_ratio=spec.mlp_ratio,
    drop_path_rate=0.0,
  ).to(device)
  last = spec.embed_dim * 2 ** (len(spec.depths) - 1)
  decoder = torch.nn.Linear(last, spec.stride**2 * 3).to(device)
  token = torch.nn.Parameter(torch.zeros(spec.embed_dim, device=device))
  side = spec.image_size
  grid = side // spec.patch_size
  image = torch.randn(images, 3, side, side, device=device)
  masked = torch.rand(images, grid, grid, 1, device=device) < _MASKED
  parameters = [*trunk.parameters(), *decoder.parameters(), token]
  optimizer = torch.optim.AdamW(
    parameters, lr=1e-3, weight_decay=0.05, fused=device == 'cuda'
  )
  pixels = masked.permute(0, 3, 1, 2).float()
  pixels = torch.nn.functional.interpolate(pixels, size=side)

  def loss(image):
    x = trunk.patch_embed(image)
    x = torch.where(masked, token.to(x.dtype), x)
    y = decoder(trunk.norm(trunk.layers(x)))
    stride = spec.stride
    y = y.unflatten(-1, (3, stride, stride)).permute(0, 3, 1, 4, 2, 5)
    error = (y.reshape(image.shape).float() - image).abs() * pixels
    return error.sum() / pixels.sum() / 3

  compiled = loss if mode == 'eager' else torch.compile(loss)

  def step():
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device, dtype=torch.bfloat16):
      value = compiled(image)
    value.backward()
    optimizer.step()
    return value

  return step


def measure(args: argparse.Namespace) -> dict[str, Any]:
  """The row of one run of steps."""
  torch = importlib.import_module('torch')
  timm = importlib.import_module('timm')
  spec = sizes.ringmoe_spec(args.size)
  spec = dataclasses.replace(spec, mlp_ratio=args.ffns * spec.mlp_ratio)
  step = make(spec, args.images, args.device, args.mode)
  wall = []
  rounds = args.rounds or (3 if args.quick else 30)
  for round_ in range(rounds + 3):  # Compiling and warming up come first.
    begin = time.perf_counter()
    value = step().item()  # Waits for the device.
    if round_ >= 3:
      wall.append(time.perf_counter() - begin)
  assert np.isfinite(value)
  on_gpu = args.device == 'cuda'
  row = {
    'variant': f'PyTorch dense Swin V2 ({args.mode})',
    'size': args.size,
    'dtype': 'bfloat16',
    'images': args.images,
    'step_seconds': statistics.median(wall),
    'step_seconds_min': min(wall),
    'step_seconds_max': max(wall),
    'images_per_second': args.images / statistics.median(wall),
    'torch': torch.__version__,
    'timm': timm.__version__,
  }
  if on_gpu:
    row['peak_bytes'] = torch.cuda.max_memory_allocated()
    row['torch_device'] = torch.cuda.get_device_name()
  return row


def main() -> None:
  parser = bench.options(__doc__)
  add = parser.add_argument
  add('--size', choices=tuple(sizes.RINGMOE), default='base')
  add('--ffns', type=int, default=3, help='width of the FFN; default 3 experts')
  add('--images', type=int, help='a step; default 128, 4 if quick')
  add('--rounds', type=int, help='default 30, 3 if quick')
  add('--device', choices=('cuda', 'cpu'), default='cuda')
  add('--mode', choices=('compile', 'eager'), default='compile')
  args = parser.parse_args()
  args.images = args.images or (4 if args.quick else 128)
  rows = []
  if (reason := missing(args.device)) is not None:
    print(f'PyTorch is not compared: {reason}.')
  else:
    rows.append(measure(args))
    bench.print_table(
      rows,
      {
        'variant': '{variant}',
        'size': '{size}',
        'images': '{images}',
        's a step': '{step_seconds:.4f}',
        'images/s': '{images_per_second:.1f}',
        'torch': '{torch}',
        'timm': '{timm}',
      },
    )
  bench.finish(args, 'swin_torch', rows)


if __name__ == '__main__':
  main()
