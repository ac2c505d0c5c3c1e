"""`rsfm predict`: a scene in, a map out, the same however it was cut."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rasterio

from rsfm_jax.cli import main
from rsfm_jax.data import cog
from rsfm_jax.export import folder as folders
from rsfm_jax.models import build
from rsfm_jax.models import sizes
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import statistics as stats
from rsfm_jax.tasks import contract as task_contract
from rsfm_jax.tasks import encoders
from rsfm_jax.tasks import finetuning
from rsfm_jax.tasks import spec as task_spec
from rsfm_jax.train import best
from rsfm_jax.train import hooks

# Shares of classes: float32 sums in another order.
TOLERANCE = 2e-6
SENSOR = 'opt'
BANDS = catalogue.get(SENSOR).band_names
CRS = 'EPSG:32632'
TRANSFORM = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
CLASS_NAMES = ('low', 'middle', 'high')
CLASSES = 3
# Two blocks of the first stage, so that shifted windows reach over borders.
SPEC = sizes.ringmoe_spec(
  'tiny',
  image_size=32,
  patch_size=2,
  embed_dim=8,
  depths=(2, 1),
  heads=(1, 2),
  window=4,
  specialised=0,
  collaborative=0,
  decoders=False,
)
STATISTICS = stats.Statistics(
  mean=(120.0,) * len(BANDS),
  std=(50.0,) * len(BANDS),
  percentiles={},
  minimum=(0.0,) * len(BANDS),
  maximum=(255.0,) * len(BANDS),
  count=(1,) * len(BANDS),
  bands=BANDS,
)


def objective(kind, size):
  """The task with a linear head, for images of (H, W) pixels."""
  dates = (2,) if kind == 'change' else ()
  loss = 'mse' if kind == 'map' else 'cross_entropy'
  outputs = {'map': 1, 'change': 2}.get(kind, CLASSES)
  task = task_spec.TaskSpec(
    kind=kind, head='linear', outputs=outputs, loss=loss
  )
  encode = encoders.single(SPEC)
  image = jax.ShapeDtypeStruct((1, *dates, *size, len(BANDS)), np.float32)
  maps = jax.eval_shape(
    lambda p, x: encode(p, {SENSOR: {'image': x}}, mode='eval').maps,
    build.build(SPEC).abstract,
    image,
  )
  return finetuning.FineTuning(
    finetuning.FineTuningSpec(task=task),
    encode,
    task_contract.Features(maps, size),
  )


@pytest.fixture(scope='module')
def parameters():
  return noise(build.build(SPEC).abstract)


def noise(abstract):
  """Weights that make outputs differ, without a program to compile."""
  rng = np.random.default_rng(0)
  make = lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype)
  return jax.tree.map(make, abstract)


@pytest.fixture(scope='module')
def tuned(parameters, tmp_path_factory):
  """`tuned(kind)` -> workdir as a fine-tuning leaves it, and its state."""
  made = {}

  def make(kind):
    if kind not in made:
      folder = tmp_path_factory.mktemp(kind)
      init = objective(kind, (32, 32)).init
      head, extra = jax.eval_shape(init, jax.random.key(0))
      state = {
        'params': parameters | {build.HEADS: noise(head)},
        'extra': extra,
        'step': jnp.int32(1),
      }
      keep = best.KeepBest(
        lambda state: {'miou': 1.0},
        [],
        folder / best.BEST,
        schedule=hooks.Every(1),
        total_steps=1,
        metric='miou',
        best='highest',
        metadata=metadata(kind),
      )
      keep.run(1, state)
      keep.finish(1, state)
      keep.close()
      config = {'data': {'window': {'size': 32}}}
      (folder / 'config.json').write_text(json.dumps(config))
      made[kind] = folder, state
    return made[kind]

  return make


def metadata(kind):
  return {
    'spec': SPEC.to_json(),
    'contract': {
      'sensors': {SENSOR: catalogue.get(SENSOR).to_json()},
      'statistics': {SENSOR: STATISTICS.to_json()},
    }
    | ({'classes': list(CLASS_NAMES)} if kind == 'segmentation' else {}),
    'objective': dataclasses.asdict(objective(kind, (32, 32)).spec),
    'init_from': None,
  }


def pixels(height, width, seed=0):
  """Smooth noise u8[H, W, C], without a zero."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(1, 255, (height // 4 + 1, width // 4 + 1, len(BANDS)))
  return coarse.repeat(4, 0).repeat(4, 1)[:height, :width].astype(np.uint8)


def write(path, image, *, bands=BANDS, transform=TRANSFORM, **changes):
  profile = {
    'driver': 'GTiff',
    'height': image.shape[0],
    'width': image.shape[1],
    'count': image.shape[2],
    'dtype': image.dtype,
    'crs': CRS,
    'transform': transform,
  }
  with rasterio.open(path, 'w', **(profile | changes)) as file:
    file.write(np.moveaxis(image, -1, 0))
    if bands:
      file.descriptions = bands
  return str(path)


def predict(*args):
  return main.main(['predict', *map(str, args)])


def untiled(kind, state, *images):
  """The whole scene at once: f32[H, W, K]."""
  seen = [(image.astype(np.float32) - 120) / 50 for image in images]
  seen = np.stack(seen) if kind == 'change' else seen[0]
  size = images[0].shape[:2]
  run = jax.jit(objective(kind, size).averaged)
  entry = {'image': seen[None]}
  out = run(state['params'], state['extra'], {SENSOR: entry})
  return np.asarray(out[0])


@pytest.mark.parametrize('stride', [16, 32, 48])
def test_tiled_equals_untiled(tuned, tmp_path, stride):
  folder, state = tuned('segmentation')
  image = pixels(176, 144)
  scene, out = write(tmp_path / 's.tif', image), tmp_path / 'm.tif'
  options = ['--size', 80, '--halo', 16, '--stride', stride]
  options += ['--as', 'probabilities', '--batch_size', 2]
  assert predict(folder, scene, '--out', out, *options) == 0
  want = untiled('segmentation', state, image)
  with rasterio.open(out) as file:
    found = np.moveaxis(file.read(), 0, -1)
  assert want.max() > 0.6 and want.std() > 0.1
  np.testing.assert_allclose(found, want, atol=TOLERANCE)


@pytest.fixture
def small(tuned, tmp_path):
  """`small(*options, image=..., name=...)` -> exit code, map of 96 x 78."""

  def run(*options, kind='segmentation', image=None, name='m.tif', **changes):
    folder, _ = tuned(kind)
    image = pixels(96, 78) if image is None else image
    scene = write(tmp_path / 's.tif', image, **changes)
    out = tmp_path / name
    code = predict(folder, scene, '--out', out, '--batch_size', 2, *options)
    return code, out

  return run


def test_a_map_lies_where_its_scene_lies(small):
  image = pixels(96, 78)
  image[10:40, 5:30] = 0
  names = 'water,wood,town'
  code, out = small('--classes', names, image=image, nodata=0)
  assert code == 0
  with rasterio.open(out) as file:
    assert (file.crs, file.transform) == (CRS, TRANSFORM)
    assert (file.shape, file.dtypes, file.nodata) == ((96, 78), ('uint8',), 255)
    table = file.colormap(1)
    assert len({table[i] for i in range(CLASSES)}) == CLASSES
    assert file.tags()['RSFM_CLASSES'] == names
    found = file.read(1)
  np.testing.assert_array_equal(found == 255, (image == 0).all(-1))
  assert set(np.unique(found)) > {0, 255}
  cog.check(out)


def test_classes_are_called_as_in_the_store_that_was_trained_on(small):
  code, out = small()
  assert code == 0
  with rasterio.open(out) as file:
    assert file.tags()['RSFM_CLASSES'] == ','.join(CLASS_NAMES)
  code, out = small('--as', 'probabilities', name='p.tif')
  assert code == 0
  with rasterio.open(out) as file:
    assert file.descriptions == CLASS_NAMES


def test_colours_are_those_that_are_asked_for(small):
  code, out = small('--colours', '#102030,#ffffff,#000001')
  assert code == 0
  with rasterio.open(out) as file:
    assert file.colormap(1)[0] == (16, 32, 48, 255)
    assert file.colormap(1)[2] == (0, 0, 1, 255)


def test_bands_are_matched_by_name(small):
  image = pixels(96, 78)
  _, out = small(image=image)
  code, other = small(image=image[..., ::-1], bands=BANDS[::-1], name='o.tif')
  assert code == 0 and other.read_bytes() == out.read_bytes()


def test_a_killed_map_ends_with_the_bytes_of_one_that_was_not(
  tuned, tmp_path, monkeypatch, capsys
):
  folder, _ = tuned('segmentation')
  scene = write(tmp_path / 's.tif', pixels(96, 78))
  run = lambda name, *options: predict(
    folder, scene, '--out', tmp_path / name, '--batch_size', 2, *options
  )
  assert run('whole.tif') == 0
  genuine = cog.MapWriter.write

  def killed(self, window, values, done):
    if done == 3:
      raise RuntimeError('pulled the plug')
    genuine(self, window, values, done)

  monkeypatch.setattr(cog.MapWriter, 'write', killed)
  assert run('m.tif') == 2 and not (tmp_path / 'm.tif').exists()
  unfinished = tmp_path / '.m.tif.unfinished'
  assert json.loads((unfinished / 'done.json').read_text())['done'] == 2
  monkeypatch.setattr(cog.MapWriter, 'write', genuine)
  assert run('m.tif', '--stride', 8) == 2
  assert 'stride: 20 -> 8' in capsys.readouterr().err
  assert run('m.tif') == 0 and not unfinished.exists()
  whole, resumed = (tmp_path / name for name in ('whole.tif', 'm.tif'))
  assert resumed.read_bytes() == whole.read_bytes()


def test_changes_are_mapped_from_two_scenes(tuned, tmp_path):
  folder, state = tuned('change')
  before, after = pixels(64, 48), pixels(64, 48, seed=1)
  paths = [
    write(tmp_path / f'{i}.tif', image)
    for i, image in enumerate((before, after))
  ]
  out = tmp_path / 'm.tif'
  options = ['--as', 'probabilities', '--size', 48, '--halo', 16]
  options += ['--stride', 16, '--after', paths[1], '--batch_size', 1]
  assert predict(folder, paths[0], '--out', out, *options) == 0
  with rasterio.open(out) as file:
    found = np.moveaxis(file.read(), 0, -1)
  want = untiled('change', state, before, after)
  np.testing.assert_allclose(found, want, atol=TOLERANCE)


def test_numbers_are_floats_with_nan_for_nothing(small):
  image = pixels(96, 78)
  image[:7] = 0
  code, out = small(kind='map', image=image, nodata=0)
  assert code == 0
  with rasterio.open(out) as file:
    assert file.dtypes == ('float32',) and np.isnan(file.nodata)
    found = file.read(1)
  np.testing.assert_array_equal(np.isnan(found), (image == 0).all(-1))


@pytest.fixture(scope='module')
def encoder_folder(parameters, tmp_path_factory):
  """A model folder without a head."""
  folder = tmp_path_factory.mktemp('models') / 'encoder'
  folders.save(
    folder,
    parameters,
    spec=SPEC.to_json(),
    contract=metadata('segmentation')['contract'],
    record={},
  )
  return folder


def test_embeddings_have_a_pixel_per_token(
  encoder_folder, parameters, tmp_path
):
  image = pixels(96, 78)
  scene, out = write(tmp_path / 's.tif', image), tmp_path / 'm.tif'
  options = ['--as', 'embedding', '--size', 48, '--halo', 16, '--stride', 16]
  assert predict(encoder_folder, scene, '--out', out, *options) == 0
  padded = np.zeros((1, 96, 80, len(BANDS)), np.float32)
  padded[0, :, :78] = (image.astype(np.float32) - 120) / 50
  encode = encoders.single(SPEC)
  want = jax.jit(
    lambda p, x: encode(p, {SENSOR: {'image': x}}, mode='eval').maps
  )(parameters, padded)
  with rasterio.open(out) as file:
    found = np.moveaxis(file.read(), 0, -1)
    assert file.transform == TRANSFORM * rasterio.Affine.scale(4)
    assert file.descriptions[:2] == ('final_0', 'final_1')
  np.testing.assert_allclose(found, want['final'][0], atol=2e-5)


def test_a_model_without_a_head_has_no_classes(
  encoder_folder, tmp_path, capsys
):
  scene = write(tmp_path / 's.tif', pixels(96, 78))
  assert predict(encoder_folder, scene, '--out', tmp_path / 'm.tif') == 2
  assert 'has no task head' in capsys.readouterr().err


def test_a_model_of_several_sensors_makes_no_map(tuned, tmp_path, capsys):
  run = shutil.copytree(tuned('segmentation')[0], tmp_path / 'run')
  config = {'data': {'window': {'size': 32}, 'sensors': [SENSOR]}}
  (run / 'config.json').write_text(json.dumps(config))
  scene = write(tmp_path / 's.tif', pixels(96, 78))
  assert predict(run, scene, '--out', tmp_path / 'm.tif') == 2
  assert 'config.data.sensors' in capsys.readouterr().err


def test_a_head_of_scenes_makes_no_map(small, capsys):
  code, out = small(kind='classes')
  assert code == 2 and 'task.kind=classes' in capsys.readouterr().err
  assert not out.exists()


@pytest.mark.parametrize(
  'options, changes, words',
  [
    ([], {'crs': None}, 's.tif has no CRS'),
    (['--crs', 'EPSG:4326'], {}, 'has a CRS itself'),
    (['--crs', 'EPSG:x'], {'crs': None}, "--crs 'EPSG:x'"),
    ([], {'bands': ('R', 'G', 'B')}, "bands ['B', 'G', 'R']"),
    ([], {'bands': ('red', '', 'blue')}, "lacks ['green']"),
    ([], {'image': pixels(96, 78) / np.float32(255)}, 'cannot be uint8'),
    (['--halo', 16], {}, '--halo 16'),
    (['--stride', 33], {}, '--stride 33'),
    (['--after', 's.tif'], {}, '--after s.tif'),
    (['--classes', 'a,b'], {}, '--classes names 2'),
    (['--colours', 'red,green,blue'], {}, "--colours 'red'"),
    (['--as', 'embedding'], {}, 'neither a model folder nor'),
    (['--batch_size', 0], {}, '--batch_size 0'),
  ],
)
def test_a_wrong_scene_or_option_is_one_line(
  small, capsys, options, changes, words
):
  code, out = small(*options, **changes)
  assert code == 2 and words in capsys.readouterr().err
  assert [path.name for path in out.parent.iterdir()] in (['s.tif'], [])


def test_what_is_there_is_kept_unless_told(small, capsys):
  _, out = small()
  before = out.read_bytes()
  assert small()[0] == 2
  assert '--overwrite' in capsys.readouterr().err
  assert out.read_bytes() == before
  assert small('--overwrite', '--colours', '#000000,#000001,#000002')[0] == 0
  assert out.read_bytes() != before


@pytest.mark.parametrize(
  'east, words',
  [(1e5, 'no ground in common'), (100, 'give --nodata')],
)
def test_a_later_scene_elsewhere_is_refused(
  tuned, tmp_path, capsys, east, words
):
  folder, _ = tuned('change')
  first = write(tmp_path / 'a.tif', pixels(64, 48))
  place = rasterio.Affine.translation(east, 0) * TRANSFORM
  later = write(tmp_path / 'b.tif', pixels(64, 48), transform=place)
  out = tmp_path / 'm.tif'
  assert predict(folder, first, '--out', out, '--after', later) == 2
  assert words in capsys.readouterr().err and not out.exists()
