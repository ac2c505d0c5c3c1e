"""The recipes as text, and with stand-ins for the programs they call."""

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import time

import pytest

PODS = pathlib.Path(__file__).parent.parent / 'experiments' / 'pods'
VERB = ['--config', 'configs/pretrain/x.py', '--config.note=two words']
TRAINS = (
  "pretrain --config configs/pretrain/x.py '--config.note=two words' "
  '--workdir /mnt/w'
)
PLACE = ['--name', 'ring-1', '--project', 'p', '--zone', 'us-east5-a']
CALLS = {
  'tpu_queued_resources.sh': [*PLACE, '--type', 'v5p-32'],
  'gke_xpk.sh': [
    *PLACE,
    *('--cluster', 'c', '--type', 'v5p-32', '--image', 'r/rsfm:1'),
  ],
  'slurm.sh': ['--name', 'ring-1', '--nodes', '4', '--gpus', '8'],
}
LAUNCHES = {
  'tpu_queued_resources.sh': '.venv/bin/rsfm launch --tpu',
  'gke_xpk.sh': 'rsfm launch --tpu --grace_seconds 280',
  'slurm.sh': 'rsfm launch --slurm',
}


BARE: dict[str, str] = {}
# All that the scripts may find: never a cloud's own program, so that no test
# can reach one, whatever is installed.
TOOLS = (
  *('basename', 'bash', 'cat', 'dirname', 'env', 'head', 'mkdir', 'rm', 'sed'),
  *('sleep', 'touch'),
)


@pytest.fixture(scope='session', autouse=True)
def bare(tmp_path_factory):
  """The only folder of `BARE['PATH']`."""
  folder = tmp_path_factory.mktemp('bare')
  for tool in TOOLS:
    (folder / tool).symlink_to(shutil.which(tool))
  BARE['PATH'] = str(folder)
  return folder


def run(script, *args, path=None, **environ):
  """The script, with only `TOOLS` and stand-ins to be found."""
  return subprocess.run(
    [shutil.which('bash'), PODS / script, *map(str, args)],
    env={'PATH': path or BARE['PATH'], **environ},
    capture_output=True,
    text=True,
    timeout=60,
  )


def call(script, *more, verb=VERB, **kwargs):
  args = [*CALLS[script], '--workdir', '/mnt/w', *more, '--', *verb]
  return run(script, *args, **kwargs)


def words(text):
  """Every word of the commands shown, also of those within one argument."""
  out = []
  for line in text.splitlines():
    if line.startswith('+ '):
      for word in shlex.split(line[2:]):
        out += [word, *shlex.split(word.partition('--command=')[2])]
  return out


@pytest.fixture
def stand_in(tmp_path, bare):
  """`stand_in(name, body)`: a program on the path that notes its calls."""
  folder = tmp_path / 'bin'
  folder.mkdir()
  log = tmp_path / 'calls'
  log.touch()

  def make(name, body='exit 0'):
    path = folder / name
    path.write_text(
      f'#!{shutil.which("bash")}\necho "{name} $*" >> {log}\n{body}\n'
    )
    path.chmod(0o755)

  make.path = f'{folder}:{bare}'
  make.calls = lambda: log.read_text().splitlines()
  return make


def test_every_script_is_known_here():
  scripts = {path.name for path in PODS.glob('*.s*')}
  assert scripts == {*CALLS, 'recipe.sh', 'again.sh', 'slurm.sbatch'}


@pytest.mark.parametrize(
  'path', sorted(PODS.glob('*.s*')), ids=lambda p: p.name
)
def test_bash_reads_it(path):
  checked = subprocess.run(['bash', '-n', path], capture_output=True, text=True)
  assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize('script', CALLS)
def test_by_default_it_only_says_what_it_would_do(script):
  """Without gcloud, xpk or sbatch on the path."""
  for more in ([], ['--dry_run'], ['--go', '--dry_run']):
    done = call(script, *more)
    assert done.returncode == 0, done.stderr
    assert all(re.match(r'[+#] ', line) for line in done.stdout.splitlines())


@pytest.mark.parametrize('script', CALLS)
def test_it_shows_the_exact_command_of_every_host(script):
  want = shlex.split(f'{LAUNCHES[script]} -- {TRAINS}')
  out = call(script).stdout
  shown = words(out)
  if script == 'slurm.sh':  # The batch script starts it.
    shown = shlex.split(out.splitlines()[1][2:])
  at = [i for i in range(len(shown)) if shown[i : i + len(want)] == want]
  assert at, out


@pytest.mark.parametrize('script', CALLS)
def test_go_needs_the_program(script):
  done = call(script, '--go')
  assert done.returncode == 2
  assert 'is not installed' in done.stderr


@pytest.mark.parametrize('script', CALLS)
@pytest.mark.parametrize(
  'args, message',
  [
    ([], '--name is missing'),
    (['--nmae', 'x'], 'unknown option --nmae'),
  ],
)
def test_bad_usage_is_told(script, args, message):
  done = run(script, *args)
  assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize('script', CALLS)
def test_what_to_train_and_a_good_name_are_needed(script):
  done = call(script, verb=[])
  assert done.returncode == 2 and 'what to train' in done.stderr
  done = call(script, '--name', 'Ring_1')
  assert done.returncode == 2 and '--name=Ring_1' in done.stderr


@pytest.mark.parametrize('script', CALLS)
def test_help_is_the_head_of_the_script(script):
  done = run(script, '--help')
  assert done.returncode == 0
  assert '--dry_run' in done.stdout and 'set -euo' not in done.stdout


@pytest.mark.parametrize(
  'type_, more, quota, runtime',
  [
    ('v5p-32', [], 'TPUV5PPerProjectPerZone', 'v2-alpha-tpuv5'),
    ('v5p-32', ['--spot'], 'TPUV5PPreemptiblePerProject', 'v2-alpha-tpuv5'),
    ('v6e-16', ['--spot'], 'TPUV6EPreemptiblePerProject', 'v2-alpha-tpuv6e'),
    (
      'v5litepod-16',
      ['--spot'],
      'TPUV5sPreemptibleLitepodPerProject',
      'v2-alpha-tpuv5-lite',
    ),
  ],
)
def test_the_quota_that_counts_is_named(type_, more, quota, runtime):
  out = call('tpu_queued_resources.sh', '--type', type_, *more).stdout
  assert f'quota {quota}' in out and f'--filter=quotaId:{quota}' in out
  assert f'--runtime-version={runtime}' in words(out)
  assert ('--spot' in words(out)) == bool(more)


@pytest.mark.parametrize(
  'script, args, message',
  [
    ('tpu_queued_resources.sh', ['--zone', 'us-east5'], 'is no zone'),
    ('tpu_queued_resources.sh', ['--type', 'v99-8'], 'knows v5p-'),
    ('tpu_queued_resources.sh', ['--workdir', 'gs://b/w'], 'mount it'),
    ('gke_xpk.sh', ['--image', 'r/rsfm:latest'], 'other than latest'),
    ('gke_xpk.sh', ['--workdir', 'gs://b/w'], 'mount it'),
    ('slurm.sh', ['--workdir', 'w'], 'absolute path'),
  ],
)
def test_what_would_fail_later_fails_first(script, args, message):
  done = call(script, *args)
  assert done.returncode == 2 and message in done.stderr


def gcloud(ssh, state='ACTIVE'):
  """A gcloud whose slice has a state and whose hosts end with a code."""
  return (
    'case "$*" in\n'
    f'  *queued-resources\\ describe*) {state} ;;\n'
    f'  *queued-resources\\ ssh*) {ssh} ;;\n'
    'esac'
  )


def test_a_slice_is_asked_for_used_and_given_back(stand_in, tmp_path):
  # It does not exist before it is created.
  state = f'test -e {tmp_path}/made && echo ACTIVE || exit 1'
  body = gcloud('exit 0', state)
  stand_in(
    'gcloud', f'[[ $* == *\\ create\\ * ]] && touch {tmp_path}/made\n{body}'
  )
  done = call('tpu_queued_resources.sh', '--go', path=stand_in.path)
  assert done.returncode == 0, done.stderr
  verbs = [
    found[1]
    for line in stand_in.calls()
    if (found := re.search(r'queued-resources (create|ssh|delete) ', line))
  ]
  assert verbs == ['create', 'ssh', 'delete']


def test_a_failed_run_is_not_repeated_on_a_slice_that_is_there(stand_in):
  stand_in('gcloud', gcloud('exit 1', 'echo ACTIVE'))
  done = call('tpu_queued_resources.sh', '--go', '--keep', path=stand_in.path)
  assert done.returncode == 2 and 'slice that is there' in done.stderr
  calls = '\n'.join(stand_in.calls())
  assert calls.count(' ssh ') == 1 and ' delete ' not in calls


def test_a_slice_that_is_gone_is_asked_for_again(stand_in, tmp_path):
  gone = tmp_path / 'gone'
  state = f'test -e {gone} && echo SUSPENDED || echo ACTIVE'
  ssh = (
    f'test -e {tmp_path}/twice && exit 0; touch {gone} {tmp_path}/twice; exit 1'
  )
  create = f'[[ $* == *\\ create\\ * ]] && rm -f {gone}'
  stand_in('gcloud', f'{create}\n{gcloud(ssh, state)}')
  done = call('tpu_queued_resources.sh', '--go', path=stand_in.path)
  assert done.returncode == 0, done.stderr
  calls = '\n'.join(stand_in.calls())
  assert calls.count(' ssh ') == 2 and calls.count(' create ') == 1


def test_xpk_restarts_what_is_worth_it():
  shown = words(call('gke_xpk.sh', '--attempts', '3', '--spot').stdout)
  assert '--restart-on-exit-codes=4,5' in shown
  assert '--max-restarts=2' in shown and '--spot' in shown
  assert '--termination-grace-period-seconds=300' in shown


def test_slurm_gets_one_task_a_node_and_time_to_save():
  shown = words(call('slurm.sh', '--partition', 'gpu').stdout)
  for option in (
    *('--nodes=4', '--ntasks-per-node=1', '--gres=gpu:8', '--requeue'),
    *('--signal=TERM@300', '--partition=gpu'),
  ):
    assert option in shown


@pytest.mark.parametrize(
  'code, starts, requeued',
  [(0, 0, False), (2, 0, False), (4, 0, True), (5, 1, True), (5, 2, False)],
)
def test_a_job_returns_to_the_queue_after_4_and_5(
  stand_in, code, starts, requeued
):
  stand_in('srun', f'exit {code}')
  stand_in('scontrol')
  done = run(
    *('slurm.sbatch', 3, 300, *VERB, '--workdir', '/mnt/w'),
    path=stand_in.path,
    SLURM_JOB_ID='7',
    SLURM_RESTART_COUNT=str(starts),
  )
  assert done.returncode == code
  assert ('scontrol requeue 7' in stand_in.calls()) == requeued
  step = stand_in.calls()[0]
  assert step.endswith(
    'rsfm launch --slurm --grace_seconds 300 -- pretrain --config '
    'configs/pretrain/x.py --config.note=two words --workdir /mnt/w'
  )


@pytest.mark.parametrize(
  'codes, ended, starts',
  [
    ([0], 0, 1),
    ([2], 2, 1),
    ([5, 4, 0], 0, 3),
    ([5, 5, 5], 5, 3),
    ([137], 137, 1),
  ],
)
def test_again_repeats_after_4_and_5_only(
  stand_in, tmp_path, codes, ended, starts
):
  left = tmp_path / 'codes'
  left.write_text('\n'.join(map(str, codes)) + '\n')
  stand_in('work', f'code=$(head -n1 {left}); sed -i 1d {left}; exit $code')
  done = run('again.sh', 3, 'work', 'a b', path=stand_in.path)
  assert (done.returncode, len(stand_in.calls())) == (ended, starts)


def test_again_stops_when_it_is_told_to(stand_in, tmp_path):
  ready = tmp_path / 'ready'
  stand_in('work', f'trap "exit 4" TERM; touch {ready}; sleep 30 & wait')
  process = subprocess.Popen(
    [shutil.which('bash'), PODS / 'again.sh', '9', 'work'],
    env={'PATH': stand_in.path},
    start_new_session=True,
  )
  try:
    deadline = time.monotonic() + 20
    while not ready.exists():
      assert time.monotonic() < deadline
      time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 4
    assert len(stand_in.calls()) == 1
  finally:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)  # The sleep, too.
