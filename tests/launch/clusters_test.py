"""Who this process is, by options, Slurm's variables or those of a TPU."""

import pytest

from rsfm_jax.launch import clusters
from rsfm_jax.launch import distributed

PATIENCE = distributed.Patience()
STEP = {
  'SLURM_JOB_ID': '4097',
  'SLURM_STEP_NODELIST': 'gpu[007-009,012],m1',
  'SLURM_STEP_NUM_NODES': '4',
  'SLURM_NTASKS': '4',
  'SLURM_PROCID': '2',
  'SLURM_LOCALID': '0',
}
GCE = {
  'agent-worker-number': '1',
  'worker-network-endpoints': 'a:0:10.0.0.5,b:1:10.0.0.6',
  'tpu-env': '',
}


def who(spec):
  return spec.coordinator, spec.processes, spec.process


def test_plain_hosts_are_told_by_options():
  spec = clusters.plain(
    {}, coordinator='a:1', processes=2, process=1, patience=PATIENCE
  )
  assert who(spec) == ('a:1', 2, 1)


def test_plain_hosts_are_told_by_variables_and_options_win():
  environ = {
    'RSFM_COORDINATOR': 'a:1',
    'RSFM_PROCESSES': '4',
    'RSFM_PROCESS': '3',
  }
  assert who(clusters.plain(environ, patience=PATIENCE)) == ('a:1', 4, 3)
  spec = clusters.plain(environ, process=0, patience=PATIENCE)
  assert who(spec) == ('a:1', 4, 0)


def test_what_was_not_told_is_named():
  with pytest.raises(ValueError, match='set --processes or RSFM_PROCESSES'):
    clusters.plain({}, coordinator='a:1', process=0, patience=PATIENCE)
  environ = {
    'RSFM_COORDINATOR': 'a:1',
    'RSFM_PROCESSES': 'two',
    'RSFM_PROCESS': '0',
  }
  with pytest.raises(ValueError, match="--processes='two' must be a number"):
    clusters.plain(environ, patience=PATIENCE)


def test_a_task_of_slurm_finds_the_first_node_and_a_port_of_its_job():
  spec = clusters.slurm(STEP, patience=PATIENCE)
  assert who(spec) == ('gpu007:61441', 4, 2)
  pinned = clusters.slurm(STEP, port=9000, patience=PATIENCE)
  assert pinned.coordinator == 'gpu007:9000'


@pytest.mark.parametrize(
  'more, devices',
  [
    ({}, None),  # One task a node: all GPUs.
    ({'SLURM_NTASKS': '8', 'SLURM_LOCALID': '1'}, (1,)),
    (
      {
        'SLURM_NTASKS': '8',
        'SLURM_LOCALID': '1',
        'CUDA_VISIBLE_DEVICES': '0,1',
      },
      (1,),
    ),
    # Slurm has bound the GPU itself.
    (
      {'SLURM_NTASKS': '8', 'SLURM_LOCALID': '1', 'CUDA_VISIBLE_DEVICES': '1'},
      None,
    ),
  ],
)
def test_tasks_of_one_node_share_its_gpus(more, devices):
  spec = clusters.slurm(STEP | more, patience=PATIENCE)
  assert spec.local_devices == devices


@pytest.mark.parametrize(
  'nodes, first',
  [
    ('node001', 'node001'),
    ('node001,host2', 'node001'),
    ('node[001-015],host2', 'node001'),
    ('node[007,009-015]', 'node007'),
    ('rack[2-3]-node[11-14],m1', 'rack2-node11'),
  ],
)
def test_first_of_a_node_list(nodes, first):
  assert clusters.first_node(nodes) == first


def test_outside_of_a_step_slurm_is_refused():
  with pytest.raises(ValueError, match='SLURM_PROCID is not set.*srun'):
    clusters.slurm(
      {k: v for k, v in STEP.items() if k != 'SLURM_PROCID'}, patience=PATIENCE
    )


def test_a_host_of_a_slice_on_gke():
  environ = {'TPU_WORKER_HOSTNAMES': 'w-0,w-1,w-2', 'TPU_WORKER_ID': '2'}
  spec = clusters.tpu(environ, patience=PATIENCE, ask=pytest.fail)
  assert who(spec) == ('w-0:8482', 3, 2)
  spec = clusters.tpu(environ, port=9, patience=PATIENCE, ask=pytest.fail)
  assert spec.coordinator == 'w-0:9'


def test_several_slices_count_on():
  environ = {
    'TPU_PROCESS_ADDRESSES': 'w-0:8471,w-1:8471',
    'TPU_WORKER_ID': '1',
    'MEGASCALE_COORDINATOR_ADDRESS': 'first-0:8080',
    'MEGASCALE_NUM_SLICES': '3',
    'MEGASCALE_SLICE_ID': '2',
  }
  spec = clusters.tpu(environ, patience=PATIENCE, ask=pytest.fail)
  assert who(spec) == ('first-0:8482', 6, 5)


@pytest.mark.parametrize(
  'endpoints', [GCE['worker-network-endpoints'], '10.0.0.5,10.0.0.6']
)
def test_a_tpu_vm_asks_its_metadata_server(endpoints):
  told = GCE | {'worker-network-endpoints': endpoints}
  spec = clusters.tpu({}, patience=PATIENCE, ask=told.__getitem__)
  assert who(spec) == ('10.0.0.5:8482', 2, 1)


def test_slices_of_tpu_vms_are_in_the_tpu_environment():
  told = GCE | {
    'tpu-env': "ZONE: 'z'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
    "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.1'"
  }
  spec = clusters.tpu({}, patience=PATIENCE, ask=told.__getitem__)
  assert who(spec) == ('10.0.0.1:8482', 4, 3)


# The second is what ahead-of-time compilation sets where there is no TPU.
@pytest.mark.parametrize('environ', [{}, {'TPU_WORKER_HOSTNAMES': 'localhost'}])
def test_elsewhere_a_tpu_is_refused(environ, monkeypatch):
  monkeypatch.setenv('GCE_METADATA_IP', '127.0.0.1:1')  # Nobody answers.
  with pytest.raises(ValueError, match='this is no TPU host'):
    clusters.tpu(environ, patience=PATIENCE)
