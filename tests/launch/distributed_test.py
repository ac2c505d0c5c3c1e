"""Who a process is: checked at once, and the same after a trip as JSON."""

import pytest

from rsfm_jax.launch import distributed

PATIENCE = distributed.Patience()


def test_a_spec_survives_its_json():
  spec = distributed.Spec(
    'host-0:8482',
    4,
    3,
    local_devices=(2, 3),
    patience=distributed.Patience(heartbeat=10),
  )
  assert distributed.from_json(spec.to_json()) == spec
  plain = distributed.Spec('[::1]:1', 1, 0)
  assert distributed.from_json(plain.to_json()) == plain


@pytest.mark.parametrize(
  'address', ['', 'host', 'host:', ':80', 'host:0', 'host:99999', 'host:x']
)
def test_an_address_needs_host_and_port(address):
  with pytest.raises(ValueError, match='--coordinator=.*HOST:PORT'):
    distributed.Spec(address, 1, 0)


@pytest.mark.parametrize('processes, process', [(0, 0), (2, 2), (2, -1)])
def test_a_number_must_be_one_of_those_that_are(processes, process):
  with pytest.raises(ValueError, match=f'--process={process}.*--processes'):
    distributed.Spec('host:1', processes, process)


def test_patience_must_be_positive():
  with pytest.raises(ValueError, match='--heartbeat_seconds=0'):
    distributed.Patience(heartbeat=0)


def test_local_processes_share_one_address_of_loopback():
  specs = distributed.local(3, port=1234, patience=PATIENCE)
  assert [spec.process for spec in specs] == [0, 1, 2]
  assert {spec.coordinator for spec in specs} == {'127.0.0.1:1234'}
  assert {spec.bind for spec in specs} == {'127.0.0.1:1234'}
  with pytest.raises(ValueError, match='--local=0'):
    distributed.local(0, port=1, patience=PATIENCE)


def test_one_process_alone_starts_nothing():
  # Devices are already in use here: starting would be an error.
  distributed.start(distributed.Spec('host:1', 1, 0), facts={})
