"""Train step of SkySense V2 tiny against the sum of its parts.

The parts are the student's encoder, forward and backward, and the teacher's,
forward, each compiled alone on the views of the same batch; the rest of a step
is views, heads, losses, optimiser and moving average. Target: a step takes at
most 1.15 times the parts; Sinkhorn and the cutting of views each at most 5 %
of a step. All programs take turns in one process; ratios are of one round, the
medians over rounds are shown.

  python benchmarks/skysense_step.py [--rounds 10] [--config FILE]

Sinkhorn, in targets, clusters of pixels and prototypes, is timed by itself on
noise of the sizes that a traced step asks for.
"""

from collections.abc import Callable, Sequence
import pathlib
import statistics
import time
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.cli import bench
from rsfm_jax.cli import config as configs
from rsfm_jax.cli import training
from rsfm_jax.models import clean
from rsfm_jax.models import geo_context
from rsfm_jax.objectives import granularity
from rsfm_jax.objectives import multi_crop
from rsfm_jax.objectives import sinkhorn
from rsfm_jax.objectives import skysense_v2

TARGET = 1.15
MOST = 0.05  # Of a step, for Sinkhorn and for views.
ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'pretrain' / 'skysense_v2_tiny.py'
QUICK = (
  '--config.data.tiles.batch_size=4',
  '--config.model.depths=(1,1,1,1)',
  '--config.model.moe_layers=1',
  '--config.model.fusion_depth=1',
)


class Program(NamedTuple):
  """A compiled part.

  Attributes:
    run: without arguments; returns arrays to wait for.
    compile_seconds: on this machine.
  """

  run: Callable[[], Any]
  compile_seconds: float


def noise(planned: training.Training) -> dict[str, dict[str, jax.Array]]:
  """A batch in which everything counts."""
  draws = np.random.default_rng(0)

  def draw(like):
    if like.dtype == bool:
      values = np.ones(like.shape, bool)
    elif np.issubdtype(like.dtype, np.integer):
      values = draws.integers(0, 12, like.shape).astype(like.dtype)
    else:
      values = draws.standard_normal(like.shape).astype(like.dtype)
    return jax.device_put(values, like.sharding)

  return jax.tree.map(draw, planned.batch)


def parts_of(
  planned: training.Training,
) -> dict[str, Callable[..., Any]]:
  """{'views', 'student', 'teacher'}: functions of what they need."""
  objective, apply = planned.objective, planned.built.apply
  sensors = list(planned.built.spec.sensors)

  def views(batch, key):
    found = multi_crop.views(batch, sensors, objective.looks, key)
    return {name: images for name, (_, images) in found.items()}

  def encode(params, batch, images, *, mode, key, context):
    count = len(images[sensors[0]]) // len(batch[sensors[0]]['image'])
    spread = lambda x: jnp.repeat(x, count, 0)
    return apply(
      params,
      images,
      date_valid={s: spread(clean.dates(batch[s])) for s in sensors},
      days={s: spread(batch[s]['day']) for s in sensors},
      mode=mode,
      key=key,
      prototypes=None if context is None else spread(context),
    )

  def loss(params, prototypes, batch, images, key):
    place = batch[skysense_v2.PLACE]
    context = geo_context.lookup(prototypes, place['region'])
    total = 0.0
    for of in images.values():
      out = encode(params, batch, of, mode='train', key=key, context=context)
      # Every output has a gradient, at the least cost.
      for x in (out.fused, *out.features.values()):
        total += jnp.square(x.astype(jnp.float32)).mean()
    return total

  def teacher(params, batch, images):
    return [
      (out.fused, out.features)
      for out in (
        encode(params, batch, of, mode='eval', key=None, context=None)
        for of in images.values()
      )
    ]

  return {'views': views, 'student': jax.grad(loss), 'teacher': teacher}


class Work(NamedTuple):
  """What a step gives to Sinkhorn, by shape.

  Attributes:
    logits: of targets and prototypes.
    clusters: points, weights and constants of every clustering of pixels.
  """

  logits: list[tuple[int, ...]]
  clusters: list[tuple[tuple[int, ...], tuple[int, ...], Any]]


def sinkhorn_work(planned: training.Training) -> Work:
  """Listens to a trace of the loss; computes nothing."""
  found, real = Work([], []), sinkhorn.sinkhorn

  def noting(logits, **options):
    found.logits.append(tuple(logits.shape))
    return real(logits, **options)

  def clustering(points, weights, spec):
    found.clusters.append((points.shape, weights.shape, spec))
    return jnp.zeros((*weights.shape, spec.clusters))

  state = planned.state
  seen = {**state['extra'], 'ema': state['ema'], 'step': state['step']}
  with (
    mock.patch.object(sinkhorn, 'sinkhorn', noting),
    mock.patch.object(granularity, 'cluster', clustering),
  ):
    jax.eval_shape(
      planned.objective.loss, state['params'], seen, planned.batch, planned.key
    )
  return found


def sinkhorn_of(work: Work) -> tuple[Callable[..., Any], tuple[Any, ...]]:
  """A function that does the work, and noise for it."""
  draw = lambda shape: jax.random.normal(jax.random.key(1), shape, jnp.float32)

  def run(logits, points):
    shares = [
      granularity.cluster(p, jnp.ones(shape), spec)
      for p, (_, shape, spec) in zip(points, work.clusters, strict=True)
    ]
    return [sinkhorn.sinkhorn(x) for x in logits], shares

  points = [draw(shape) for shape, _, _ in work.clusters]
  return run, ([draw(shape) for shape in work.logits], points)


def programs(planned: training.Training) -> dict[str, Program]:
  """'step' and its parts, compiled."""
  batch, key = noise(planned), jax.random.key(0)
  state = planned.plan.create()
  encoder = {
    name: jax.tree.map(jnp.array, x)  # The step gives its state away.
    for name, x in state['params'].items()
    if name != skysense_v2.OBJECTIVE
  }
  prototypes = jnp.array(state['extra']['prototypes'])
  parts = parts_of(planned)
  views = _compiled(parts['views'], batch, key)
  images = views.run()
  balance, rows = sinkhorn_of(sinkhorn_work(planned))
  begin = time.perf_counter()
  step = planned.step_fn.lower(state, batch, key).compile()
  seconds = time.perf_counter() - begin
  held = [state]

  def run():
    held[0], metrics = step(held[0], batch, key)
    return held[0], metrics

  return {
    'step': Program(run, seconds),
    'student': _compiled(
      parts['student'], encoder, prototypes, batch, images, key
    ),
    'teacher': _compiled(parts['teacher'], encoder, batch, images),
    'views': views,
    'sinkhorn': _compiled(balance, *rows),
  }


def _compiled(fn: Callable[..., Any], *args: Any) -> Program:
  begin = time.perf_counter()
  ready = jax.jit(fn).lower(*args).compile()
  return Program(lambda: ready(*args), time.perf_counter() - begin)


def time_in_turn(
  found: dict[str, Program], rounds: int
) -> dict[str, list[float]]:
  """{name: seconds of every round}, the rounds interleaved."""
  wall = {name: [] for name in found}
  for round_ in range(rounds + 1):
    for name, program in found.items():
      begin = time.perf_counter()
      jax.block_until_ready(program.run())
      if round_:  # The first round warms up.
        wall[name].append(time.perf_counter() - begin)
  return wall


def rows_of(
  wall: dict[str, Sequence[float]], about: dict[str, Any]
) -> list[dict[str, Any]]:
  """A row per program; the step's has its ratio to its parts."""
  rows = []
  for name, seconds in wall.items():
    shares = [s / whole for s, whole in zip(seconds, wall['step'], strict=True)]
    rows.append(
      about
      | {
        'part': name,
        'seconds': statistics.median(seconds),
        'seconds_min': min(seconds),
        'seconds_max': max(seconds),
        'share': statistics.median(shares),
      }
    )
  sums = [sum(pair) for pair in zip(wall['student'], wall['teacher'])]
  ratios = [a / b for a, b in zip(wall['step'], sums, strict=True)]
  rows[0]['ratio'] = statistics.median(ratios)
  return rows


COLUMNS = {
  'part': '{part}',
  'ms': '{ms:.1f}',
  'min': '{min_ms:.1f}',
  'max': '{max_ms:.1f}',
  f'share of a step (views, sinkhorn: target {MOST:.0%})': '{share:.1%}',
  f'/ student + teacher (target {TARGET})': '{ratio:.2f}',
}


def shown(row: dict[str, Any]) -> dict[str, Any]:
  return row | {
    'ms': 1e3 * row['seconds'],
    'min_ms': 1e3 * row['seconds_min'],
    'max_ms': 1e3 * row['seconds_max'],
  }


def main() -> None:
  parser = bench.options(__doc__)
  add = parser.add_argument
  add('--config', default=str(CONFIG), help='of a SkySense V2')
  add('--rounds', type=int, help='default 10, 2 if quick')
  args = parser.parse_args()
  config = configs.load(args.config, QUICK if args.quick else ())
  planned = training.abstract(
    config, mesh_sizes={'data': 1}, devices=jax.devices()[:1]
  )
  found = programs(planned)
  rounds = args.rounds or (2 if args.quick else 10)
  about = {
    'config': pathlib.Path(args.config).stem,
    'tiles': planned.images,
    'rounds': rounds,
    'compile_seconds': found['step'].compile_seconds,
  }
  rows = rows_of(time_in_turn(found, rounds), about)
  print(f'\n{about["config"]}, {planned.images} tiles, {rounds} rounds')
  bench.print_table([shown(row) for row in rows], COLUMNS)
  bench.finish(args, 'skysense_step', rows)


if __name__ == '__main__':
  main()
