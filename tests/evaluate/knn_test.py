"""kNN equals the harnesses it is named after and a slow oracle."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.evaluate import knn
from rsfm_jax.evaluate import metrics

SCORES = 1e-4  # The fixture's tolerance; predictions are exact.


@pytest.fixture(scope='module')
def golden(shared):
  path = shared / 'parity' / '11_knn_protocols.npz'
  return np.load(path, allow_pickle=False)


def vote(golden, name, labels, classes):
  return knn.classify(
    golden['in/train'],
    golden[f'in/train_{labels}'],
    golden['in/test'],
    how=knn.rule(name),
    classes=classes,
  )


@pytest.mark.parametrize('name', knn.RULES)
def test_single_label_parity(golden, name):
  votes = vote(golden, name, 'labels', 6)
  np.testing.assert_array_equal(votes.predictions, golden[f'out/{name}/pred'])
  for kind in ('scores', 'proba'):
    if f'out/{name}/{kind}' in golden:
      np.testing.assert_allclose(
        votes.scores, golden[f'out/{name}/{kind}'], atol=SCORES
      )
  table = metrics.confusion(
    votes.predictions, golden['in/test_labels'], classes=6
  )
  for metric in ('accuracy', 'macro_f1'):
    assert metrics.counted(metric)(table) == pytest.approx(
      golden[f'out/{name}/{metric}'], abs=1e-6
    )


def test_pangaea_ranking_parity(golden):
  votes = vote(golden, 'pangaea_k200', 'labels', 6)
  ranking = np.argsort(-votes.scores, axis=1, kind='stable')
  np.testing.assert_array_equal(ranking, golden['out/pangaea_k200/ranking'])


@pytest.mark.parametrize(
  'name',
  ['olmoearth_k20', 'galileo_k5', 'galileo_k20', 'pangaea_k200',
   'torchgeobench_k5'],
)  # fmt: skip
def test_multilabel_parity(golden, name):
  votes = vote(golden, name, 'multilabels', 12)
  np.testing.assert_array_equal(
    votes.predictions, golden[f'out/{name}/multilabel_pred']
  )
  if f'out/{name}/multilabel_scores' in golden:
    np.testing.assert_allclose(
      votes.scores, golden[f'out/{name}/multilabel_scores'], atol=SCORES
    )
  targets = golden['in/test_multilabels']
  table = metrics.confusion(votes.predictions, targets, classes=12)
  for metric in ('micro_f1', 'macro_f1'):
    assert metrics.counted(metric)(table) == pytest.approx(
      golden[f'out/{name}/multilabel_{metric}'], abs=1e-6
    )
  if f'out/{name}/multilabel_micro_map' in golden:
    value = metrics.mean_average_precision(
      votes.scores, targets, average='micro'
    )
    assert value == pytest.approx(
      golden[f'out/{name}/multilabel_micro_map'], abs=1e-6
    )


def test_neighbour_indices_parity(golden):
  bank = jnp.asarray(golden['in/train'])
  _, index = knn.neighbours(
    bank, jnp.asarray(golden['in/test']), jnp.ones(len(bank), bool), k=5
  )
  np.testing.assert_array_equal(index, golden['out/cosine_top5_indices'])


@pytest.mark.parametrize('distance', ['cosine', 'euclidean'])
@pytest.mark.parametrize('chunk', [1, 7, 64])
def test_chunks_equal_the_oracle(distance, chunk):
  rng = np.random.default_rng(0)
  # Far from the origin, where float32 products lose the distances.
  bank, query = rng.normal(size=(40, 5)) + 100, rng.normal(size=(23, 5)) + 100
  if distance == 'cosine':
    bank, query = bank - 100, query - 100
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    far = -unit(query) @ unit(bank).T
  else:
    far = ((query[:, None] - bank[None]) ** 2).sum(-1)
  _, index = knn.neighbours(
    jnp.asarray(bank, jnp.float32),
    jnp.asarray(query, jnp.float32),
    jnp.ones(40, bool),
    k=6,
    distance=distance,
    chunk=chunk,
  )
  np.testing.assert_array_equal(index, np.argsort(far, axis=1)[:, :6])


@pytest.mark.parametrize('name', ['olmoearth_k20', 'torchgeobench_k5'])
@pytest.mark.parametrize('junk', [np.nan, np.inf, 1e30])
def test_invalid_rows_never_vote(name, junk):
  rng = np.random.default_rng(1)
  bank, query = rng.normal(size=(30, 4)), rng.normal(size=(9, 4))
  targets = rng.integers(3, size=30)
  how = knn.rule(name)
  clean = knn.classify(bank, targets, query, how=how, classes=3)
  zeros, padded = (
    knn.classify(
      np.concatenate([bank, np.full((5, 4), fill)]),
      np.concatenate([targets, np.full(5, -1)]),
      query,
      how=how,
      classes=3,
      valid=np.arange(35) < 30,
    )
    for fill in (0.0, junk)
  )
  np.testing.assert_array_equal(zeros.scores, padded.scores)
  np.testing.assert_array_equal(clean.predictions, padded.predictions)
  # Products of another shape round differently; exp(x / 0.07) amplifies it.
  np.testing.assert_allclose(clean.scores, padded.scores, rtol=1e-5)


def test_a_small_bank_votes_as_a_whole():
  how = dataclasses.replace(knn.rule('torchgeobench_k5'), k=50)
  votes = knn.classify(
    np.eye(3), np.array([0, 0, 1]), np.eye(3), how=how, classes=2
  )
  np.testing.assert_allclose(votes.scores, [[2 / 3, 1 / 3]] * 3, rtol=1e-6)


def test_bad_input_is_named():
  with pytest.raises(ValueError, match='Did you mean "galileo_k20"'):
    knn.rule('galileo_20')
  with pytest.raises(ValueError, match='no valid row'):
    knn.classify(
      np.eye(2), np.zeros(2, int), np.eye(2), how=knn.rule('galileo_k5'),
      classes=1, valid=np.zeros(2, bool),
    )  # fmt: skip
