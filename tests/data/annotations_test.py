"""The files that say where objects are, form by form."""

import numpy as np
import pytest

from rsfm_jax.data import annotations
from tests.data.datasets import box_copies as forms

POINTS = forms.POINTS


def told(**changes):
  return annotations.Annotations(
    **{'form': 'bndbox', 'classes': ('ship', 'plane')} | changes
  )


@pytest.mark.parametrize(
  'form, inner, wanted',
  [
    ('bndbox', forms.bndbox('Plane', (10, 20), (30, 26)), [20, 23, 20, 6, 0]),
    ('robndbox', forms.robndbox('plane', POINTS), forms.BOX[0, :5]),
    ('points', forms.points_of('PLANE', POINTS), forms.BOX[0, :5]),
  ],
)
def test_every_form_gives_a_row_whatever_its_capitals(
  tmp_path, form, inner, wanted
):
  path = tmp_path / 'a.xml'
  forms.write(path, inner)
  found = annotations.read(str(path), told(form=form))
  np.testing.assert_allclose(found, [[*wanted, 1]], atol=1e-4)


def test_another_spelling_is_the_same_class(tmp_path):
  path = tmp_path / 'a.xml'
  forms.write(path, forms.bndbox('aeroplane', (0, 0), (2, 2)))
  with pytest.raises(ValueError, match="'aeroplane', none of"):
    annotations.read(str(path), told())
  found = annotations.read(str(path), told(aliases=(('aeroplane', 'plane'),)))
  assert found[0, 5] == 1


@pytest.mark.parametrize(
  'inner, words',
  [
    (forms.bndbox('shop', (0, 0), (2, 2)), "'shop', none of .*ship"),
    ('<name>ship</name>', 'an object without xmin'),
    (forms.robndbox('ship', POINTS), 'an object without xmin'),
    (forms.bndbox('ship', ('x', 0), (2, 2)), 'could not convert'),
    ('<name>', 'mismatched tag'),
  ],
)
def test_what_cannot_be_read_names_its_file(tmp_path, inner, words):
  path = tmp_path / 'a.xml'
  forms.write(path, inner)
  with pytest.raises(ValueError, match=f'a.xml: .*{words}'):
    annotations.read(str(path), told())


def test_an_empty_image_has_no_boxes(tmp_path):
  forms.write(tmp_path / 'a.xml')
  assert annotations.read(str(tmp_path / 'a.xml'), told()).shape == (0, 6)


def test_an_unknown_form_is_refused():
  with pytest.raises(ValueError, match='form of annotations'):
    told(form='bndboxes')
