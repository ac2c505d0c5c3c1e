"""Tiny copies of published data sets in the layout that they are unpacked to.

Paths are written out here and not made from the templates under test.
"""

import json

import h5py
import numpy as np
from PIL import Image

from tests.data import scene_files

S2 = 'B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12'.split()
L1C = (*S2[:10], 'B10', *S2[10:])


def picture(path, edge=16, *, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  pixels = rng.integers(1, 255, (edge, edge, 3)).astype(np.uint8)
  if path.suffix == '.tif':
    scene_files.write_tiff(path, pixels.transpose(2, 0, 1), crs=None)
  else:
    Image.fromarray(pixels).save(path)


def png(path, values):
  """values: [H, W] grey or [H, W, 3] colours."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.asarray(values, np.uint8)).save(path)


def tiff(path, bands, edge=16, *, dtype=np.uint16, seed=0, **options):
  image = scene_files.digital_numbers(bands, edge, edge, seed=seed)
  if np.dtype(dtype).kind == 'f':
    image = image / -1000  # Decibel.
  scene_files.write_tiff(path, image.astype(dtype), **options)


def text(path, *lines):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text('\n'.join(lines) + '\n')


def halves(low, high, edge=16):
  """[H, W]: `low` above, `high` below."""
  values = np.full((edge, edge, *np.shape(low)), low)
  values[edge // 2 :] = high
  return values


def lists(root, names):
  """{file: lines}."""
  for name, lines in names.items():
    text(root / name, *lines)


def eurosat(root, folder, suffix):
  for i, label in enumerate(('Forest', 'River', 'SeaLake'), 1):
    path = root / folder / label / f'{label}_{i}{suffix}'
    if suffix == '.jpg':
      picture(path, seed=i)
    else:
      tiff(path, 13, seed=i)
  # The lists name JPEGs, whichever form is on disk.
  lists(
    root,
    {
      'eurosat-train.txt': ['Forest_1.jpg'],
      'eurosat-val.txt': ['River_2.jpg'],
      'eurosat-test.txt': ['SeaLake_3.jpg'],
    },
  )


def eurosat_rgb(root):
  eurosat(root, '2750', '.jpg')


def eurosat_ms(root):
  eurosat(root, 'ds/images/remote_sensing/otherDatasets/sentinel_2/tif', '.tif')


def scenes(folder, suffix, names, edge, prefix):
  """Labelled pictures, and a list each for three of them."""

  def make(root):
    for i, (label, name) in enumerate(names):
      picture(root / folder / label / f'{name}{suffix}', edge, seed=i)
    for split, (_, name) in zip(('train', 'val', 'test'), names, strict=True):
      text(root / f'{prefix}-{split}.txt', f'{name}{suffix}')

  return make


ucmerced = scenes(
  'UCMerced_LandUse/Images',
  '.tif',
  (
    ('beach', 'beach00'),
    ('river', 'river07'),
    ('tenniscourt', 'tenniscourt99'),
  ),
  250,
  'uc_merced',
)
resisc45 = scenes(
  'NWPU-RESISC45',
  '.jpg',
  (
    ('sea_ice', 'sea_ice_001'),
    ('palace', 'palace_700'),
    ('lake', 'lake_2'),
  ),
  16,
  'resisc45',
)


def aid(root):
  for i in range(40):
    picture(root / 'AID' / 'BareLand' / f'bareland_{i}.jpg', seed=i)


def bigearthnet(root, folder, name, bands, labels, dtype):
  for band in bands:
    edge = 2 if band in ('B01', 'B09') else 12
    if band in ('B05', 'B06', 'B07', 'B8A', 'B11', 'B12'):
      edge = 6
    path = root / folder / name / f'{name}_{band}.tif'
    tiff(path, 1, edge, pixel=120 / edge, dtype=dtype)
  text(
    root / folder / name / f'{name}_labels_metadata.json',
    json.dumps({'labels': labels}),
  )


def bigearthnet_s2(root):
  names = [f'S2A_MSIL2A_20170613T101031_61_{i}' for i in (39, 40, 41)]
  labels = (
    ['Airports', 'Rice fields', 'Sea and ocean'],
    ['Pastures'],
    ['Transitional woodland/shrub', 'Water bodies', 'Water courses'],
  )
  for name, told in zip(names, labels, strict=True):
    bigearthnet(root, 'BigEarthNet-v1.0', name, S2, told, np.uint16)
  for name, split in zip(names, ('train', 'val', 'test'), strict=True):
    text(root / f'bigearthnet-{split}.csv', f'{name},S1{name[2:]}')


def bigearthnet_s1(root):
  names = [f'S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_{i}' for i in (1, 2, 3)]
  for name, split in zip(names, ('train', 'val', 'test'), strict=True):
    bigearthnet(
      root, 'BigEarthNet-S1-v1.0', name, ('VV', 'VH'), ['Salines'], np.float32
    )
    text(root / f'bigearthnet-{split}.csv', f'S2{name[2:]},{name}')


def oscd(root):
  base = 'Onera Satellite Change Detection dataset - '
  for seed, (city, part) in enumerate((('paris', 'Train'), ('rio', 'Test'))):
    for date in (1, 2):
      for i, band in enumerate(L1C):
        tiff(
          root / f'{base}Images/{city}/imgs_{date}_rect/{band}.tif',
          1,
          seed=100 * seed + 20 * date + i,
        )
      # What is not registered lies there too.
      tiff(root / f'{base}Images/{city}/imgs_{date}/S2A_{city}_B04.tif', 1)
    scene_files.write_tiff(
      root / f'{base}{part} Labels/{city}/cm/{city}-cm.tif',
      halves(1, 2).astype(np.uint8)[None],
    )
    png(root / f'{base}{part} Labels/{city}/cm/cm.png', halves(0, 255))


def levir_cd(root):
  for split, i in (('train', 1), ('val', 2), ('test', 102)):
    picture(root / split / f'A/{split}_{i}.png', 256, seed=i)
    picture(root / split / f'B/{split}_{i}.png', 256, seed=-i % 97)
    png(root / split / f'label/{split}_{i}.png', halves(0, 255, 256))


def potsdam(root):
  for i in ('2_10', '7_13'):
    tiff(
      root / f'4_Ortho_RGBIR/top_potsdam_{i}_RGBIR.tif',
      4,
      512,
      dtype=np.uint8,
    )
    colours = halves((255, 255, 255), (255, 255, 0), 512).astype(np.uint8)
    scene_files.write_tiff(
      root / f'5_Labels_all/top_potsdam_{i}_label.tif',
      colours.transpose(2, 0, 1),
    )


def vaihingen(root):
  for i in ('1', '38'):
    picture(root / f'top/top_mosaic_09cm_area{i}.tif', 512)
    colours = halves((0, 0, 255), (255, 0, 0), 512).astype(np.uint8)
    scene_files.write_tiff(
      root / f'top_mosaic_09cm_area{i}.tif',
      colours.transpose(2, 0, 1),
      crs=None,
    )


def isaid(root):
  for split, name in (('train', 'P0000'), ('val', 'P0003'), ('test', 'P0006')):
    picture(root / f'{split}/images/images/{name}.png', 256)
    if split != 'test':
      png(
        root / f'{split}/Semantic_masks/images/{name}_instance_color_RGB.png',
        halves((0, 0, 0), (0, 100, 155), 256),
      )


def loveda(root):
  for split in ('Train', 'Val', 'Test'):
    for area in ('Urban', 'Rural'):
      picture(root / f'{split}/{area}/images_png/12.png', 512)
      if split != 'Test':
        png(root / f'{split}/{area}/masks_png/12.png', halves(0, 7, 512))


def sen1floods11(root, what, bands, dtype):
  base = root / 'v1.1/data/flood_events/HandLabeled'
  for i, name in enumerate(('Ghana_1', 'India_2', 'USA_3', 'Bolivia_4')):
    tiff(base / f'{what}/{name}_{what}.tif', bands, seed=i, dtype=dtype)
    mask = halves(-1, 1).astype(np.int16)[None]
    scene_files.write_tiff(base / f'LabelHand/{name}_LabelHand.tif', mask)
  for split, name in zip(
    ('train', 'valid', 'test', 'bolivia'),
    ('Ghana_1', 'India_2', 'USA_3', 'Bolivia_4'),
    strict=True,
  ):
    text(
      root / f'v1.1/splits/flood_handlabeled/flood_{split}_data.csv',
      f'{name}_S1Hand.tif,{name}_LabelHand.tif',
    )


def sen1floods11_s2(root):
  sen1floods11(root, 'S2Hand', 13, np.uint16)


def sen1floods11_s1(root):
  sen1floods11(root, 'S1Hand', 2, np.float32)


def dfc2020(root, what, bands, dtype):
  for split, i in (('train', 1), ('val', 2), ('test', 609)):
    part = 'test' if split == 'train' else 'validation'
    name = f'ROIs0000_{part}_{{}}_0_p{i}.tif'
    tiff(root / f'dfc2020_s1s2/{what}/{name.format(what)}', bands, dtype=dtype)
    scene_files.write_tiff(
      root / f'dfc2020_s1s2/dfc/{name.format("dfc")}',
      halves(0, 10).astype(np.uint8)[None],
    )
    text(root / f'dfc2020_s1s2/dfc-{split}-new.csv', name.format('dfc'))


def dfc2020_s2(root):
  dfc2020(root, 's2', 13, np.uint16)


def dfc2020_s1(root):
  dfc2020(root, 's1', 2, np.float32)


def pastis(root):
  features = []
  for i, fold in ((10000, 1), (10001, 4), (40562, 5)):
    rng = np.random.default_rng(i)
    series = rng.integers(200, 3000, (3, 10, 16, 16)).astype(np.int16)
    mask = np.stack([halves(19, 18), halves(1, 1), halves(2, 2)])
    for name, array in (
      (f'DATA_S2/S2_{i}.npy', series),
      (f'ANNOTATIONS/TARGET_{i}.npy', mask.astype(np.uint8)),
    ):
      path = root / 'PASTIS-R' / name
      path.parent.mkdir(parents=True, exist_ok=True)
      np.save(path, array)
    dates = {'0': 20180917, '1': 20181002, '2': 20190105}
    told = {'ID_PATCH': i, 'Fold': fold, 'dates-S2': dates}
    features.append({'type': 'Feature', 'properties': told, 'geometry': None})
  text(
    root / 'PASTIS-R/metadata.geojson',
    json.dumps({'type': 'FeatureCollection', 'features': features}),
  )


def fmow_sentinel(root):
  for split, label, place, image in (
    ('train', 'crop_field', 7, 12),
    ('val', 'multi-unit_residential', 8, 0),
    ('test_gt', 'zoo', 9, 3),
  ):
    name = f'{label}_{place}'
    tiff(root / f'fmow-sentinel/{split}/{label}/{name}/{name}_{image}.tif', 13)
    text(
      root / f'{split}.csv',
      ',category,location_id,image_id,timestamp',
      f'0,{label},{place},{image},2017-03-01T00:00:00Z',
    )


def so2sat_s2(root):
  root.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  for part, code in (('training', 0), ('validation', 3), ('testing', 16)):
    with h5py.File(root / f'{part}.h5', 'w') as file:
      file['sen2'] = rng.uniform(0.01, 0.5, (2, 32, 32, 10))
      file['label'] = np.eye(17)[[code, 16 - code]]


GEOBENCH = (
  '01 - Coastal aerosol',
  '02 - Blue',
  '03 - Green',
  '04 - Red',
  '05 - Vegetation Red Edge',
  '06 - Vegetation Red Edge',
  '07 - Vegetation Red Edge',
  '08 - NIR',
  '08A - Vegetation Red Edge',
  '09 - Water vapour',
  '10 - SWIR - Cirrus',
  '11 - SWIR',
  '12 - SWIR',
)


def geobench(name, classes, scale=1):
  def make(root):
    folder = root / 'classification_v1.0' / name
    folder.mkdir(parents=True)
    ids = ['id_0000', 'id_0007', 'id_0012']
    for id_ in ids:
      with h5py.File(folder / f'{id_}.hdf5', 'w') as file:
        for i, band in enumerate(GEOBENCH):
          value = 100 * (i + 1) * scale
          kind = np.int16 if scale == 1 else np.float32
          file[band] = np.full((8, 8), value, kind)
        # The published files have a pickle here, which nobody may load.
        file.attrs['pickle'] = "b'cos\\nsystem\\n(S\\'false\\'\\ntR.'"
    parts = zip(('train', 'valid', 'test'), ids, strict=True)
    text(
      folder / 'default_partition.json',
      json.dumps({part: [id_] for part, id_ in parts}),
    )
    codes = {'0': ids[:1], str(classes - 1): ids[1:]}
    text(folder / 'label_map.json', json.dumps(codes))

  return make


def dynamic_earthnet(root):
  for split, place in (('train', '1_2_13'), ('val', '3_4_13'), ('test', '5_6')):
    folder = f'/planet/10N/{place}/PF-SR'
    mask = f'/labels/{place}_10N/Labels/Raster/10N-{place}-2018_01_01.tif'
    tiff(root / f'{folder[1:]}/2018-01-01.tif', 4, 512)
    tiff(root / f'{folder[1:]}/2018-01-02.tif', 4, 512)
    planes = np.stack(
      [halves(255 * (i == 2), 255 * (i == 6), 512) for i in range(7)]
    )
    scene_files.write_tiff(root / mask[1:], planes.astype(np.uint8))
    text(
      root / f'dynnet_training_splits/{split}.txt', f'{folder} {mask} 2018-01'
    )
