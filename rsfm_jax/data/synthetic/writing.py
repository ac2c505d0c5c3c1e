"""Many samples, made by several processes, into one store."""

from collections.abc import Iterator, Sequence
import functools
import itertools
import os

from rsfm_jax.core import progress
from rsfm_jax.data import store as stores
from rsfm_jax.data import workers as pools
from rsfm_jax.data.synthetic import samples
from rsfm_jax.data.synthetic import scene

_CHUNK = 16
# Chunks in flight per process: enough to keep it busy, little to hold.
_AHEAD = 3


def stream(
  options: samples.Options, indices: Sequence[int], *, workers: int
) -> Iterator[samples.Sample]:
  """Samples in the order of `indices`, the same for any number of workers.

  Args:
    options: what to make.
    indices: which samples.
    workers: processes; 0 makes them in this one.

  Raises:
    ValueError: a negative number of workers.
  """
  if workers < 0:
    raise ValueError(f'workers={workers} must be at least 0.')
  chunks = [indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK)]
  make = functools.partial(samples.make_many, options)
  if workers == 0:
    yield from itertools.chain.from_iterable(map(make, chunks))
    return
  with pools.local(workers) as pool:
    pending = []
    for chunk in chunks:
      pending.append(pool.submit(make, chunk))
      if len(pending) > _AHEAD * workers:
        yield from pending.pop(0).result()
    while pending:
      yield from pending.pop(0).result()


def write(
  folder: str | os.PathLike,
  options: samples.Options,
  count: int,
  *,
  workers: int,
  resume: bool = False,
) -> stores.Store:
  """Makes a labelled store of synthetic scenes.

  Args:
    folder: of the new store.
    options: what to make.
    count: how many samples.
    workers: processes beside this one; 0 for none.
    resume: continue an interrupted store.

  Raises:
    ValueError: the folder is taken, or `count` is not positive.
  """
  if count < 1:
    raise ValueError(f'samples={count} must be at least 1.')
  sensors = {sensor.name: sensor for sensor in options.sensors}
  with stores.StoreWriter(
    folder, sensors=sensors, classes=scene.CLASSES, resume=resume
  ) as writer:
    todo = [
      i for i in range(count) if not writer.has(samples.id_of(options, i))
    ]
    made = stream(options, todo, workers=workers)
    for sample in progress.bar(
      made,
      total=count,
      initial=count - len(todo),
      what='synthesize',
      unit='scene',
    ):
      writer.add(sample.arrays, **sample.fields)
    return writer.finish()


def landcover_of(store: stores.Store) -> tuple[str, ...] | None:
  """What the codes of a store's land cover mean; None where nobody says so."""
  synthetic = set(store.column('source')) == {'synthetic'}
  return samples.LANDCOVER if synthetic else None
