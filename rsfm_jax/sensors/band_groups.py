"""Bands of a sensor in groups, by what its contract calls them."""

from collections.abc import Iterator

from rsfm_jax.sensors import contract

# STAC common names; a name that ends with * is the beginning of one.
GROUPS = {
  'visible': ('coastal', 'blue', 'green', 'yellow', 'red', 'pan'),
  'red edge': ('rededge*',),
  'near infrared': ('nir*',),
  'shortwave infrared': ('swir*', 'cirrus'),
  'thermal': ('lwir*',),
}


def groups(sensor: contract.Sensor) -> dict[str, tuple[int, ...]]:
  """{group: channels}, in the order of the sensor's bands.

  Bands of SAR belong to their polarisation, optical ones to the part of the
  spectrum of their common name, others to themselves. Where all bands would
  be one group, each of them is one.
  """
  out: dict[str, tuple[int, ...]] = {}
  for channel, band in enumerate(sensor.bands):
    name = band.polarisation or next(_named(band), band.name)
    out[name] = (*out.get(name, ()), channel)
  if len(out) == 1:
    return {name: (i,) for i, name in enumerate(sensor.band_names)}
  return out


def _named(band: contract.Band) -> Iterator[str]:
  for group, names in GROUPS.items():
    for name in names:
      stem = name.removesuffix('*')
      called = band.common_name or ''
      if called == name or (stem != name and called.startswith(stem)):
        yield group
