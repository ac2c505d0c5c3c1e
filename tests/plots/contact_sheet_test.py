"""The contact sheet: what is shown, and that it can be drawn."""

import numpy as np
import pytest

from rsfm_jax.plots import contact_sheet
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import fingerprint

OK = fingerprint.Verdict(True, ())


def chips(sensor, count=5):
  rng = np.random.default_rng(0)
  shape = (count, 16, 16, len(sensor.bands))
  return list(rng.normal(size=shape).astype(np.float32))


@pytest.mark.parametrize(
  'name, titles',
  [
    ('opt', ['true colour']),
    ('ms', ['true colour', 'false colour: nir, red, green']),
    ('sar_l1', ['total power, dB']),
    ('sar_l2', ['amplitude, dB']),
  ],
)
def test_every_sensor_has_its_views(name, titles):
  sensor = catalogue.get(name)
  found = list(contact_sheet.views(chips(sensor), sensor))
  assert [view.title for view in found] == titles


def test_false_colour_is_nir_red_green():
  sensor = catalogue.get('ms')
  (image,) = chips(sensor, 1)
  *_, false = contact_sheet.views([image], sensor)
  np.testing.assert_array_equal(false.values[0], image[..., [3, 2, 1]])


@pytest.mark.parametrize('name', ['sentinel2_l1c', 'sar_l1', 'sar_l2'])
def test_a_sheet_is_drawn_with_its_verdict(name, tmp_path):
  sensor = catalogue.get(name)
  images = chips(sensor)
  images[0][:3] = np.nan  # Nodata.
  images[1] = images[1][:8, :12]  # Chips may differ in size.
  for image in images:
    image[..., -1] = np.nan  # An absent band.
  verdict = fingerprint.Verdict(False, ('slot B09 looks like B10',))
  figure = contact_sheet.draw(images, sensor, title='store', verdict=verdict)
  assert 'NOT as named: slot B09 looks like B10' in figure.get_suptitle()
  figure.savefig(tmp_path / 'a.png')
  titles = [a.get_title(loc='left') for a in figure.axes]
  for band in sensor.bands:
    assert f'{band.name}, {band.units}' in titles


def test_the_verdict_in_words():
  assert contact_sheet.summary(OK) == 'bands as named'
  unknown = fingerprint.Verdict(None, ('no fingerprint',))
  assert contact_sheet.summary(unknown) == 'bands not compared: no fingerprint'
