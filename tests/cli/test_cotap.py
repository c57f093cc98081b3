"""``cotap`` lists its commands, runs them by name, and corrects misspelled ones."""

from __future__ import annotations

import sys

import pytest

from cotap_mm.cli.main import COMMANDS, cotap
from cotap_mm.command_line.tool import is_script
from cotap_mm.version import __version__


@pytest.fixture(autouse=True)
def own_words(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['cotap'])


@pytest.mark.parametrize('words', [[], ['-h'], ['--help'], ['help']])
def test_help_lists_every_command(words, capsys):
    cotap(words)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'usage: cotap COMMAND ...'
    listed = {line.split()[0] for line in lines if line.startswith('  ')}
    assert listed == set(COMMANDS)


def test_version(capsys):
    cotap(['--version'])
    assert capsys.readouterr().out == f'cotap_mm {__version__}\n'


@pytest.mark.parametrize(
    'word, text',
    [
        ('trian', "unknown command 'trian' (did you mean train?); expected one of demo, train,"),
        ('--train', 'unknown option --train (did you mean train?)'),
        ('xyzzy', "unknown command 'xyzzy'; expected one of"),
    ],
)
def test_unknown_command(word, text, capsys):
    with pytest.raises(SystemExit) as end:
        cotap([word, '--images', 'a'])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith('cotap: error: ') and text in error and error.count('\n') == 1


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_explains_itself_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as end:
        cotap([name, '--help'])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert text.startswith(f'usage: cotap {name} ')
    assert f'\n    cotap {name}' in text, 'there is no example'
    assert not is_script()


def test_arguments_are_handed_on(capsys):
    with pytest.raises(SystemExit) as end:
        cotap(['convert', 'a.pth', 'b.pth', '--to', 'tim'])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith('cotap convert: error: ')
