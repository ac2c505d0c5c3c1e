"""Which meshes are tried, in which order, and which one is recommended."""

import math

import jax
import jax.numpy as jnp
import pytest

from rsfm_jax.launch import aot
from rsfm_jax.launch import search
from rsfm_jax.launch import topologies

TOPOLOGY = topologies.parse('v5e:2x2')
GIB = 2**30


def report(way, *, fits=True, rate=1.0):
  return aot.Compiled(
    topology=TOPOLOGY.name,
    chips=4,
    mesh=way.mesh,
    fits=fits,
    bytes_per_chip={'total': 1},
    hbm_bytes_per_chip=2,
    flops=1,
    images=1,
    images_per_second=rate if fits else None,
    notes=('too much',),
  )


def planned(params_gib=1.0):
  """A plan whose parameters are cut over fsdp and expert."""

  def plan(way):
    if way.expert == 4:
      raise ValueError('mesh.expert=4 does not divide model.specialised=2')
    count = int(params_gib * GIB) // 4 // (way.fsdp * way.expert)
    params = {'w': jax.ShapeDtypeStruct((count,), jnp.float32)}
    return aot.Step(
      step_fn=way, state={'params': params, 'opt': {'m': params}}, batch={},
      rest=(), mesh=None, images=1, flops=1,
    )  # fmt: skip

  return plan


@pytest.fixture
def compiles(monkeypatch):
  """Replaces the compiler; tells what it was given."""
  calls = []

  def answer(outcome):
    def compile_step(step, topology, *, when_too_large):
      assert when_too_large == 'stop'
      calls.append(step.step_fn)
      return outcome(step.step_fn)

    monkeypatch.setattr(aot, 'compile_step', compile_step)
    return calls

  return answer


def test_candidates_use_all_devices_each_once():
  found = search.candidates(8)
  assert len(found) == len(set(found)) == 10
  assert all(math.prod(way.mesh.values()) == 8 for way in found)
  cut = search.candidates(8, tensor=(1, 2))
  assert {way.tensor for way in cut} == {1, 2}
  assert all(math.prod(way.mesh.values()) == 8 for way in cut)


def test_what_cannot_fit_or_divide_is_not_compiled(compiles):
  calls = compiles(report)
  tried = search.search(
    planned(params_gib=20.0), TOPOLOGY, search.candidates(4), compiles=99
  )
  # Weights, momentum and gradients of 20 GiB: only cut in four they fit.
  assert {way.fsdp * way.expert for way in calls} == {4}
  reasons = [t.reason for t in tried if t.report is None]
  assert any('does not divide' in reason for reason in reasons)
  assert any('30.0 GiB without activations' in reason for reason in reasons)


def test_microbatches_rise_until_it_fits(compiles):
  calls = compiles(lambda way: report(way, fits=way.accumulate >= 4))
  way = search.Candidate(1, 4, 1, 1)
  tried = search.search(planned(), TOPOLOGY, [way])
  assert [c.accumulate for c in calls] == [1, 2, 4]
  assert search.recommended(tried).candidate.accumulate == 4
  assert tried[-1].reason == 'too much'


def test_the_fastest_that_fits_is_recommended(compiles):
  compiles(lambda way: report(way, fits=way.data != 4, rate=way.expert))
  tried = search.search(planned(), TOPOLOGY, search.candidates(4), compiles=99)
  assert search.recommended(tried).candidate.expert == 2
  rates = [t.images_per_second for t in tried]
  assert rates == sorted(rates, reverse=True)


def test_compiles_are_bounded_and_the_rest_is_named(compiles):
  calls = compiles(report)
  tried = search.search(planned(), TOPOLOGY, search.candidates(4), compiles=2)
  assert len(calls) == 2
  assert any('--compiles' in t.reason for t in tried)


def test_little_exchange_is_tried_first(compiles):
  calls = compiles(report)
  search.search(planned(), TOPOLOGY, search.candidates(4), compiles=99)
  costs = [
    search.exchanged_weights(w, GIB // (w.fsdp * w.expert)) for w in calls
  ]
  assert costs == sorted(costs)


def test_nothing_that_fits_gives_no_recommendation(compiles):
  compiles(lambda way: report(way, fits=False))
  tried = search.search(planned(), TOPOLOGY, search.candidates(4), compiles=3)
  assert search.recommended(tried) is None


def test_a_candidate_reads_as_a_mesh():
  assert str(search.Candidate(1, 16, 4, 1, 2)) == 'fsdp=16,expert=4 x 2'
  assert str(search.Candidate(1, 1, 1, 1)) == 'one device x 1'
