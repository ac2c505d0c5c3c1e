"""Checkpoints of a run: asynchronous, atomic, verified; the orbax importer.

`folder/<step>/` appears by one rename when it is whole, then `sha256.json` is
added inside with the hash of every file: Orbax itself does not notice flipped
bits of array data. `params` and `ema` are stored apart from the rest, so that
they load alone.
"""

from collections.abc import Callable, Mapping
import concurrent.futures
import errno
import hashlib
import math
import pathlib
import shutil
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from orbax.checkpoint.experimental import v1 as ocp

from rsfm_jax.core import arrays
from rsfm_jax.core import files
from rsfm_jax.core import log
from rsfm_jax.core import trees
from rsfm_jax.core import uris
from rsfm_jax.train import hosts

_SEAL = 'sha256.json'
_ALONE = ('params', 'ema')  # Top-level entries stored under their own name.
_REST = 'rest'
# Replicas of a large array are written by their holders together, each one
# slice of it, and every slice is a small program to compile. Smaller ones are
# written whole, by one of them.
_BYTES_PER_SLICE = 1 << 20
# Larger arrays are stored in chunks, so that a part can be read alone.
_BYTES_WHOLE = 64 << 20


class Restored(NamedTuple):
  """A state, the step it was saved after and the metadata saved with it."""

  step: int
  state: trees.Tree
  metadata: dict[str, Any]


class Loaded(NamedTuple):
  """Parameters alone, with step and metadata of their checkpoint."""

  step: int
  params: trees.Tree
  metadata: dict[str, Any]


class Checkpoints:
  """The checkpoints of one run; the caller holds the lock of its workdir.

  With several processes each writes what its devices hold, into a folder that
  all of them see; `save`, `wait` and `restore` are collectives.
  """

  def __init__(self, folder: files.Path, *, keep: int = 3):
    """Opens `folder` and clears what killed saves left behind.

    Args:
      folder: holds one sub-folder per step; made when absent.
      keep: how many newest steps stay; older ones go after a newer is sealed.
    """
    if keep < 1:
      raise ValueError(f'checkpoint.keep={keep} must be at least 1.')
    self._folder = _local(folder, 'write')
    self._keep = keep
    self._pending: concurrent.futures.Future | None = None
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
    self._folder.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
      for left in self._folder.glob('*.orbax-checkpoint-tmp*'):
        shutil.rmtree(left)

  def steps(self) -> list[int]:
    """Steps with a whole folder, oldest first; damage shows at `restore`."""
    return steps(self._folder)

  def save(
    self, step: int, state: trees.Tree, metadata: Mapping[str, Any]
  ) -> None:
    """Copies the state to host memory and returns; files follow behind it.

    Args:
      step: the number of finished steps; a step that exists is left alone.
      state: the train state; may be donated once this returns.
      metadata: JSON, such as `{'spec': ..., 'contract': ...}`.

    Raises:
      OSError: this or the previous save found no room; older steps are kept.
    """
    self.wait()
    if hosts.told(step in self.steps()):
      return
    with hosts.together():
      self._check_room(step, state)
    items = {k: state[k] for k in _ALONE if k in state}
    items[_REST] = {k: v for k, v in state.items() if k not in items}
    with _context():
      response = ocp.save_checkpointables_async(
        self._folder / str(step), items, custom_metadata=dict(metadata)
      )
    self._pending = self._thread.submit(self._complete, step, response)

  def wait(self) -> None:
    """Blocks until the save under way is on disk and sealed.

    Raises:
      OSError: it failed; the message names step and folder.
      RuntimeError: it failed on another process.
    """
    if self._pending is not None:
      with hosts.together():
        self._result()

  def close(self) -> None:
    """Waits; a failure is logged, since the run may end by another error."""
    try:
      self._result()  # Alone: an error may have come to this process only.
    except OSError as error:
      log.warning('%s', error)
    self._thread.shutdown()

  def restore(self, abstract: trees.Tree) -> Restored | None:
    """The newest good state on the given shardings, or None when there is none.

    A damaged step is reported, set aside as `damaged-<step>` and passed over.

    Args:
      abstract: `jax.ShapeDtypeStruct`s with shardings of any mesh, the same
        tree as was saved.

    Raises:
      ValueError: all steps are damaged, or the saved tree differs in names,
        shapes or dtypes.
    """
    self.wait()
    found = hosts.told(self.steps())
    for step in reversed(found):
      if problem := self._damage(step):
        self._set_aside(step, problem)
        continue
      items = {k: abstract[k] for k in _ALONE if k in abstract}
      items[_REST] = {k: v for k, v in abstract.items() if k not in items}
      out = _load(self._folder / str(step), items)
      state = out.pop(_REST) | out
      return Restored(step, state, metadata_of(self._folder / str(step)))
    if found:
      raise ValueError(f'{self._folder}: all of the steps {found} are damaged.')
    return None

  def _result(self) -> None:
    pending, self._pending = self._pending, None
    if pending is not None:
      pending.result()

  def _damage(self, step: int) -> str | None:
    """As `damage`, with the files divided between the processes."""
    found = damage(
      self._folder / str(step),
      part=jax.process_index(),
      of=jax.process_count(),
    )
    return next(filter(None, hosts.gathered(found or '')), None)

  def _check_room(self, step: int, state: trees.Tree) -> None:
    """An early, cheap error; parameters hardly compress."""
    needed = sum(
      shard.data.nbytes
      for x in jax.tree.leaves(state)
      for shard in jax.numpy.asarray(x).addressable_shards
      if shard.replica_id == 0
    )
    free = shutil.disk_usage(self._folder).free
    if needed > free:
      raise OSError(
        errno.ENOSPC,
        f'no room for checkpoint {step} in {self._folder}: {needed:,} bytes '
        f'needed, {free:,} free; {self._kept()}',
      )

  def _complete(self, step: int, response: ocp.AsyncResponse) -> None:
    """In the background: waits for the files, seals them, drops old steps."""
    try:
      response.result()
      if jax.process_index() == 0:
        _seal(self._folder / str(step))
        for old in self.steps()[: -self._keep]:
          shutil.rmtree(self._folder / str(old))
    except Exception as error:  # Orbax and TensorStore raise many kinds.
      for left in self._folder.glob(f'{step}.orbax-checkpoint-tmp*'):
        shutil.rmtree(left, ignore_errors=True)
      reason = ' '.join(str(error).split())[:300]
      raise OSError(
        getattr(error, 'errno', None) or errno.EIO,
        f'could not save checkpoint {step} in {self._folder}: {reason}; '
        f'{self._kept(but=step)}',
      ) from error

  def _kept(self, but: int | None = None) -> str:
    kept = [step for step in self.steps() if step != but]
    return f'kept checkpoints: {kept or "none"}.'

  def _set_aside(self, step: int, problem: str) -> None:
    aside = self._folder / f'damaged-{step}'
    log.warning(
      'checkpoint %d is damaged (%s); moved to %s, falling back to the one '
      'before it.',
      step,
      problem,
      aside,
    )
    if jax.process_index() == 0:
      shutil.rmtree(aside, ignore_errors=True)
      (self._folder / str(step)).rename(aside)


def _local(
  folder: files.Path, access: Literal['read', 'write']
) -> pathlib.Path:
  return uris.local(
    folder, what='a checkpoint', by='its seal and its renames', access=access
  ).resolve()


def steps(folder: files.Path) -> list[int]:
  """The steps saved in a folder of checkpoints, oldest first."""
  names = (path.name for path in pathlib.Path(folder).glob('[0-9]*'))
  return sorted(int(name) for name in names if name.isdecimal())


def metadata(folder: files.Path, *, step: int | None = None) -> dict[str, Any]:
  """What was saved with a step, by default the newest; no array is read.

  Raises:
    ValueError: the folder has no such step.
  """
  folder, known = _local(folder, 'read'), steps(folder)
  if not known or step not in (None, *known):
    raise ValueError(f'{folder} holds no step {step or ""}, only {known}.')
  return metadata_of(folder / str(known[-1] if step is None else step))


def damage(
  step_folder: files.Path, *, part: int = 0, of: int = 1
) -> str | None:
  """What is wrong with a saved step, or None.

  A step without `sha256.json` (killed between rename and seal) is judged by
  the marker files that Orbax renames into place with it.

  Args:
    step_folder: `checkpoints/<step>`.
    part: of the files, every `of`-th from this one on is read.
    of: how many readers share the work.
  """
  folder = pathlib.Path(step_folder)
  if not (folder / _SEAL).is_file():
    marks = ('_CHECKPOINT_METADATA', f'{_REST}/_METADATA', 'params/_METADATA')
    missing = [mark for mark in marks if not (folder / mark).is_file()]
    return f'{missing[0]} is missing' if missing else None
  try:
    sealed = files.read_json(folder / _SEAL)
  except ValueError as error:
    return str(error)
  for name, digest in sorted(sealed.items())[part::of]:
    if not (folder / name).is_file():
      return f'{name} is missing'
    if files.sha256(folder / name) != digest:
      return f'{name} has other content than was saved'
  return None


def load_params(
  folder: files.Path,
  *,
  step: int | None = None,
  which: str = 'params',
  shardings: Callable[[trees.Tree], trees.Tree] | None = None,
) -> Loaded:
  """Parameters alone from a folder of checkpoints, which is not changed.

  Args:
    folder: the `checkpoints` folder of a run.
    step: a step, or None for the newest good one.
    which: 'params' or 'ema'; or another entry of the state, such as 'extra'.
    shardings: from the abstract parameters to their shardings, for instance a
      partial `rules.shardings`; None puts all on one device.

  Raises:
    ValueError: no such step, no good step, or no such parameters in it.
  """
  index, place = good_step(folder, step)
  tree = _placed(_abstract(place, which), shardings)
  load = _load if which in _ALONE else _load_of_rest
  return Loaded(index, load(place, {which: tree})[which], metadata_of(place))


def good_step(
  folder: files.Path, step: int | None = None
) -> tuple[int, pathlib.Path]:
  """A step, or the newest good one, and its folder.

  Raises:
    ValueError: there is none.
  """
  folder = _local(folder, 'read')
  known = steps(folder)
  if step is not None and step not in known:
    raise ValueError(f'{folder} holds no step {step}, only {known}.')
  for index in reversed(known) if step is None else (step,):
    if problem := damage(folder / str(index)):
      log.warning('checkpoint %d is damaged: %s.', index, problem)
      continue
    return index, folder / str(index)
  raise ValueError(f'{folder} holds no good checkpoint (steps {known}).')


def content_hash(params: trees.Tree) -> str:
  """SHA-256 of names, dtypes, shapes and bytes: the identity of a model.

  Leaves may be on disk; they are read in parts.
  """
  digest = hashlib.sha256()
  for name, leaf in trees.flatten(params).items():
    identify(digest, name, leaf.dtype, leaf.shape)
    for block in arrays.blocks(leaf):
      digest.update(np.ascontiguousarray(block).tobytes())
  return digest.hexdigest()


def identify(digest: Any, name: str, dtype: Any, shape: Any) -> None:
  """What a content hash knows of an array beside its bytes."""
  line = f'{name} {np.dtype(dtype)} {tuple(shape)}\n'
  digest.update(line.encode())


def _context() -> ocp.Context:
  context = ocp.Context()
  saving = context.array.saving
  saving.min_slice_bytes_for_replica_parallel = _BYTES_PER_SLICE
  saving.scoped_storage_options_creator = _storage
  return context


def _storage(path: Any, leaf: Any) -> Any:
  """Large stacks of matrices in chunks of one matrix; see `train.slices`."""
  del path
  shape, dtype = np.shape(leaf), getattr(leaf, 'dtype', None)
  if dtype is None or len(shape) < 3:
    return None
  if math.prod(shape) * np.dtype(dtype).itemsize <= _BYTES_WHOLE:
    return None
  axes = tuple(range(len(shape) - 2))
  return ocp.options.ArrayOptions.Saving.StorageOptions(shard_axes=axes)


def _seal(folder: pathlib.Path) -> None:
  whole = (path for path in sorted(folder.rglob('*')) if path.is_file())
  digests = {str(p.relative_to(folder)): files.sha256(p) for p in whole}
  files.write_json(folder / _SEAL, digests)


def _abstract(folder: pathlib.Path, item: str) -> trees.Tree:
  """The saved tree of an item as shapes and dtypes, read from its metadata."""
  known = dict(ocp.checkpointables_metadata(folder).metadata)
  if item not in known:
    known |= known[_REST]
  if item not in known:
    raise ValueError(f'{folder} holds {sorted(known)}, but no {item!r}.')
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), known[item]
  )


def _placed(tree: trees.Tree, shardings) -> trees.Tree:
  """Abstract arrays with the shardings asked for, or all on one device."""
  if shardings is None:
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    places = jax.tree.map(lambda _: one, tree)
  else:
    places = shardings(tree)
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    tree,
    places,
  )


def saved(folder: pathlib.Path, item: str) -> dict[str, Any]:
  """{name: shape and dtype} of an item of a saved step.

  Raises:
    ValueError: no such item.
  """
  return trees.flatten(_abstract(folder, item))


def metadata_of(folder: pathlib.Path) -> dict[str, Any]:
  """What was saved with a step, as JSON."""
  return dict(ocp.checkpointables_metadata(folder).custom_metadata or {})


def _load_of_rest(folder: pathlib.Path, entries: trees.Tree) -> trees.Tree:
  """Some entries of what is stored together; the others are not read."""
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with context:
    return ocp.load_checkpointables(folder, {_REST: entries})[_REST]


def _load(folder: pathlib.Path, items: dict[str, Any]) -> dict[str, Any]:
  """Loads items after comparing names, shapes and dtypes by our own words."""
  for item, wanted in items.items():
    want = {n: (x.shape, x.dtype) for n, x in trees.flatten(wanted).items()}
    have = {
      n: (x.shape, x.dtype)
      for n, x in trees.flatten(_abstract(folder, item)).items()
    }
    wrong = sorted(n for n in want | have if want.get(n) != have.get(n))
    if wrong:
      name = wrong[0]
      raise ValueError(
        f'{folder}/{item} does not fit this model in {len(wrong)} arrays; '
        f'{name} is {have.get(name, "absent")} there and '
        f'{want.get(name, "absent")} here.'
      )
  return ocp.load_checkpointables(folder, items)
