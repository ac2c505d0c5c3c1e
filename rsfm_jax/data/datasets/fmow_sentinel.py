"""fMoW-Sentinel: 62 kinds of facilities in Sentinel-2 composites.

712,874, 84,939 and 84,966 images; the CSVs leave out some that failed to
download, which are bad scenes here.
"""

from rsfm_jax.data import readers
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division
from rsfm_jax.sensors import catalogue

_CLASSES = tuple(
  'airport airport_hangar airport_terminal amusement_park aquaculture '
  'archaeological_site barn border_checkpoint burial_site car_dealership '
  'construction_site crop_field dam debris_or_rubble educational_institution '
  'electric_substation factory_or_powerplant fire_station flooded_road '
  'fountain gas_station golf_course ground_transportation_station helipad '
  'hospital impoverished_settlement interchange lake_or_pond lighthouse '
  'military_facility multi-unit_residential nuclear_powerplant '
  'office_building oil_or_gas_facility park parking_lot_or_garage '
  'place_of_worship police_station port prison race_track railway_bridge '
  'recreational_facility road_bridge runway shipyard shopping_mall '
  'single-unit_residential smokestack solar_farm space_facility stadium '
  'storage_tank surface_mine swimming_pool toll_booth tower tunnel_opening '
  'waste_disposal water_treatment_facility wind_farm zoo'.split()
)

DATASETS = (
  dataset.Dataset(
    name='fmow_sentinel',
    source='README of fMoW-Sentinel; SatMAE, util/datasets.py',
    recipe=recipe.Recipe(
      sensor='sentinel2_l1c',
      layout=readers.Layout(bands=catalogue.get('sentinel2_l1c').band_names),
    ),
    image='{split}/{label}/{label}_{place}/{label}_{place}_{image}.tif',
    label='label',
    classes=_CLASSES,
    division=division.Lists(
      files={'train': 'train.csv', 'val': 'val.csv', 'test': 'test_gt.csv'},
      key='{label}_{place}_{image}',
      columns=('category', 'location_id', 'image_id'),
    ),
    counts={'train': 712874, 'val': 84939, 'test': 84966},
  ),
)
