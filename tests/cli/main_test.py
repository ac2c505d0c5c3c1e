"""`rsfm`: help, bad usage and bad input, each one line and its exit code."""

import pytest

from rsfm_jax.cli import main


@pytest.mark.parametrize('verb', [*main.VERBS, *main.DATA_VERBS])
def test_every_verb_explains_itself(verb, capsys):
  words = ['data', verb] if verb in main.DATA_VERBS else [verb]
  if verb == 'inspect':
    words = ['inspect']
  with pytest.raises(SystemExit) as stopped:
    main.main([*words, '--help'])
  assert stopped.value.code == 0
  assert 'usage: rsfm' in capsys.readouterr().out


def test_commands_in_a_description_keep_their_lines(capsys):
  with pytest.raises(SystemExit):
    main.main(['prune', '--help'])
  lines = capsys.readouterr().out.splitlines()
  (command,) = [line for line in lines if '--calibration STORE --u' in line]
  assert command.startswith('  rsfm prune --checkpoint RUN')


def test_an_unknown_verb_is_bad_usage(capsys):
  with pytest.raises(SystemExit) as stopped:
    main.main(['pretrian'])
  assert stopped.value.code == 2
  assert 'pretrain' in capsys.readouterr().err


def test_an_unknown_option_is_bad_usage(capsys):
  with pytest.raises(SystemExit) as stopped:
    main.main(['evaluate', '--store', 'x', '--chekpoint', 'y'])
  assert stopped.value.code == 2
  assert '--chekpoint' in capsys.readouterr().err


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
  missing = tmp_path / 'nothing'
  assert main.main(['evaluate', '--store', str(missing)]) == 2
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1
  assert str(missing) in lines[0]
