import argparse

import numpy as np
import pytest

from rsfm_jax.cli import data_text_embeddings
from rsfm_jax.data import store as stores
from rsfm_jax.data.synthetic import materials
from rsfm_jax.data.synthetic import samples
from rsfm_jax.data.synthetic import writing
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import class_table


def _args(*words: str) -> argparse.Namespace:
  parser = argparse.ArgumentParser()
  data_text_embeddings.add_arguments(parser)
  return parser.parse_args(words)


def test_the_fallback_is_made_when_it_is_asked_for_by_name(tmp_path, capsys):
  args = _args(
    *('--out', str(tmp_path), '--classes', 'water, forest', '--fallback', '16')
  )
  assert data_text_embeddings.run(args) == 0
  table = class_table.load(tmp_path)
  assert table.names == ('water', 'forest') and table.dim == 16
  assert 'origin: fallback' in capsys.readouterr().out


def test_an_origin_must_be_chosen(capsys):
  with pytest.raises(SystemExit):
    _args('--out', 'x', '--classes', 'a')
  assert 'one of the arguments' in capsys.readouterr().err
  with pytest.raises(SystemExit):
    _args('--out', 'x', '--classes', 'a', '--fallback', '--clip', 'm')


def test_classes_must_be_named():
  with pytest.raises(ValueError, match='--classes'):
    data_text_embeddings.table_of(_args('--out', 'x', '--fallback'))


def test_a_synthetic_store_names_its_land_cover(tmp_path):
  options = samples.Options(sensors=(catalogue.get('opt'),), size=32)
  writing.write(tmp_path, options, 1, workers=0)
  args = _args('--out', 'x', '--classes-of', str(tmp_path), '--fallback')
  table = data_text_embeddings.table_of(args)
  assert table.names[materials.LandCover.BARE_SOIL] == 'bare_soil'
  table.check_codes(stores.Store(tmp_path).read(0)['landcover'])


def test_another_store_does_not_say_what_its_codes_mean(tmp_path):
  opt = catalogue.get('opt')
  with stores.StoreWriter(tmp_path, sensors={'opt': opt}) as writer:
    writer.add({'opt/image': np.zeros((4, 4, 3), np.uint8)}, id='a')
  args = _args('--out', 'x', '--classes-of', str(tmp_path), '--fallback')
  with pytest.raises(ValueError, match='only synthetic'):
    data_text_embeddings.table_of(args)


def test_a_file_is_imported_whole_or_by_name(tmp_path):
  path = tmp_path / 'v.npz'
  np.savez(path, names=np.array(['a', 'b', 'c']), vectors=2 * np.eye(3))
  whole = data_text_embeddings.table_of(
    _args('--out', 'x', '--import', str(path))
  )
  assert whole.names == ('a', 'b', 'c') and 'v.npz' in whole.origin
  some = data_text_embeddings.table_of(
    _args('--out', 'x', '--import', str(path), '--classes', 'c,a')
  )
  np.testing.assert_array_equal(some.vectors, np.eye(3)[[2, 0]])


def test_clip_encodes_names_as_words_in_the_template(monkeypatch):
  seen = []

  def encode(model, texts, *, template):
    seen.append((model, texts, template))
    return np.eye(len(texts))

  monkeypatch.setattr(data_text_embeddings.clip_text, 'encode', encode)
  args = _args(
    *('--out', 'x', '--classes', 'bare_soil,road', '--clip', 'some/clip'),
    *('--template', 'a photo of {}'),
  )
  table = data_text_embeddings.table_of(args)
  assert seen == [('some/clip', ['bare soil', 'road'], 'a photo of {}')]
  assert table.names == ('bare_soil', 'road')
  assert 'some/clip' in table.origin and 'a photo of {}' in table.origin
