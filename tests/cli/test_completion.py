"""bash completes commands, options, choices and files of ``cotap``; zsh accepts its script."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from cotap_mm.cli.completable import completable
from cotap_mm.cli.completion import completion_script
from cotap_mm.cli.main import COMMANDS, cotap

# Sets the variables of a completion as bash does, which splits words at '='.
ASK = """
COMP_WORDS=("${@}")
COMP_CWORD=$(($# - 1))
_cotap
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope='module')
def bash_script():
    return completion_script('bash', COMMANDS)


@pytest.fixture
def complete(bash_script, tmp_path):
    """Return the completions of the last word, in a folder with two files and a folder."""
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'fine name.pth').touch()
    (tmp_path / 'list.txt').touch()

    def run(*words):
        done = subprocess.run(
            ['bash', '--norc', '-u', '-c', bash_script + ASK, 'bash', 'cotap', *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout.split('\n')[:-1]

    return run


def test_bash_knows_the_function(bash_script):
    done = subprocess.run(
        ['bash', '--norc', '-c', f'{bash_script}\ncomplete -p cotap'],
        capture_output=True,
        text=True,
    )
    assert done.stdout == 'complete -F _cotap cotap\n' and not done.stderr


def test_commands(complete):
    assert complete('') == [*COMMANDS, '--help', '--version', '--completion']
    assert complete('tr') == ['train']
    assert complete('vi') == ['visualize', 'viewer']
    assert complete('--v') == ['--version']
    assert complete('--completion', '') == ['bash', 'zsh']
    assert complete('nonsense', '') == ['']


@pytest.mark.parametrize('command', COMMANDS)
def test_every_option_of_a_command(complete, command):
    names = [name for each in completable(command) for name in each.names]
    assert complete(command, '-') == names and '--help' in names


def test_options(complete):
    assert complete('train', 'vits_folder', '--cls-a') == ['--cls-ann-file']
    assert complete('train', '--check') == [''], 'deprecated names are not offered'


def test_choices(complete):
    assert complete('train', '--launcher', '') == ['none', 'pytorch', 'slurm']
    assert complete('train', '--launcher', '=', 'sl') == ['slurm']
    assert complete('train', '--launcher', '=') == ['none', 'pytorch', 'slurm']
    assert complete('convert', 'a', 'b', '--to', 'saf') == ['safetensors']


def test_several_values(complete):
    assert complete('visualize', 'a', '--kinds', 'pca', 'cl') == ['clusters', 'classes']
    assert complete('evaluate', 'a', '--protocol', 'knn', 'line') == ['linear-seg', 'linear']
    assert complete('convert', '--size', '224', 'li') == ['']
    assert complete('convert', '--size', '224', '224', 'li') == ['list.txt']


def test_files_and_folders(complete):
    assert sorted(complete('train', 'vits_folder', '--images', 'f')) == ['fine name.pth', 'folder']
    assert complete('train', 'vits_folder', '--work-dir', '') == ['folder']
    assert complete('convert', 'l') == ['list.txt']
    assert complete('convert', '--overwrite', 'l') == ['list.txt'], 'a flag takes no value'
    assert complete('train', '--seed', '') == [''], 'a number'


def test_configs(complete):
    assert complete('train', 'vits_f') == ['vits_folder']
    assert 'ade20k_upernet' in complete('train', 'ade')
    assert complete('check', '--config', 'vits_f') == ['vits_folder']
    assert 'camvid_small' not in complete('train', 'camvid'), 'an old name'
    assert complete('train', 'li') == ['list.txt']


@pytest.mark.parametrize('shell', ['bash', 'zsh'])
def test_script_is_printed(shell, capsys):
    cotap(['--completion', shell])
    assert capsys.readouterr().out == completion_script(shell, COMMANDS) + '\n'


@pytest.mark.parametrize('words', [[], ['fish'], ['bash', 'zsh']])
def test_other_shells(words, capsys):
    with pytest.raises(SystemExit) as end:
        cotap(['--completion', *words])
    error = capsys.readouterr().err
    assert end.value.code == 2 and 'must be bash or zsh' in error and error.count('\n') == 1


def test_zsh_describes_every_option():
    script = completion_script('zsh', COMMANDS)
    for command in COMMANDS:
        for each in completable(command):
            for name in each.names:
                assert f"'*{name}[" in script
    assert "'*--launcher[what started the processes]:LAUNCHER:(none pytorch slurm)'" in script
    assert "'*--protocol[one or more of those below]:*-*:PROTOCOL:(dense-retrieval " in script


@pytest.mark.skipif(shutil.which('zsh') is None, reason='zsh is not installed')
def test_zsh_accepts_the_script():
    done = subprocess.run(
        ['zsh', '-n'], input=completion_script('zsh', COMMANDS), capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
