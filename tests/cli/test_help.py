"""Every option of every command says what it does, what it takes, and what it is by default."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from cotap_mm.cli.main import COMMANDS
from cotap_mm.command_line.arguments import Parser, out_file, out_folder, positive_float
from cotap_mm.command_line.arguments import positive_int as whole
from cotap_mm.command_line.help import complete_help
from cotap_mm.weights.named.known import KNOWN

ROOT = Path(__file__).resolve().parents[2]


def visible_actions(name):
    parser = importlib.import_module(f'cotap_mm.cli.{name}').build_parser()
    return [action for action in parser._actions if action.help != argparse.SUPPRESS]


def options(name):
    """Options that take a value."""
    return [each for each in visible_actions(name) if each.option_strings and each.nargs != 0]


@pytest.mark.parametrize('name', COMMANDS)
def test_every_argument_is_explained(name):
    unexplained = [each.dest for each in visible_actions(name) if not each.help]
    assert unexplained == []


@pytest.mark.parametrize('name', COMMANDS)
def test_every_option_shows_its_default(name):
    for action in options(name):
        text = complete_help(action)
        assert re.search(r'\bdefault\b|\(required\)', text), (action.option_strings, text)
        if action.required:
            assert 'default' not in text, action.option_strings


@pytest.mark.parametrize('name', COMMANDS)
def test_every_option_shows_what_it_takes(name, monkeypatch, capsys):
    """A value is not only named like its option."""
    monkeypatch.setenv('COLUMNS', '300')
    importlib.import_module(f'cotap_mm.cli.{name}').build_parser().print_help()
    text = capsys.readouterr().out
    for action in options(name):
        if isinstance(action.metavar, tuple):
            continue
        found = re.search(rf'^  (?=-).*{action.option_strings[-1]} (\S+)', text, re.M)
        assert found, action.option_strings
        is_chosen = action.choices is not None or action.metavar is not None
        assert is_chosen or found[1] in ('N', 'NUMBER', 'DIR', 'FILE', 'PATH'), found[0]


def examples(name):
    """Arguments of the command lines in the description of a command."""
    text = importlib.import_module(f'cotap_mm.cli.{name}').__doc__.replace('\\\n', ' ')
    for line in re.findall(r'^    (\S.*)', text, re.M):
        found = re.search(r'\b(?:cotap|cotap_mm) (\w+) (?!\.\.\.)(.*)', f'{line} ')
        if found:
            yield found[1], shlex.split(found[2], comments=True)


@pytest.mark.parametrize('name', sorted(set(COMMANDS) - {'doctor'}))
def test_examples_are_valid(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = list(examples(name))
    assert name in [command for command, _ in found]
    for command, words in found:
        module = importlib.import_module(f'cotap_mm.cli.{command}')
        getattr(module, 'parse_args', module.build_parser().parse_args)(words)
        for word in words:
            assert not word.startswith('configs/') or (ROOT / word).is_file(), word
            short = word.rpartition('=')[2]
            assert not re.fullmatch(r'[a-z]+_vit[a-z]+\d+', short) or short in KNOWN, word


def test_defaults_are_appended(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')
    parser = Parser()
    add = parser.add_argument
    add('--count', type=whole, default=3, help='how many')
    add('--rate', type=positive_float, default=0.5, help='how fast, in %%')
    add('--size', type=int, nargs=2, default=(4, 5), help='how large')
    add('--out', type=out_folder, help='where')
    add('--file', type=out_file('.x'), required=True, help='which')
    add('--kind', choices=('a', 'b'), default='a', help='a kind (default: the first)')
    add('--names', nargs='+', default=[], help='names')
    add('--sign', default='100%', metavar='TEXT', help='sign')
    add('--flag', action='store_true', help='a flag')
    add('--tail', help=argparse.SUPPRESS)
    parser.print_help()
    lines = ' '.join(capsys.readouterr().out.split())
    for part in (
        '--count N how many (default: 3)',
        '--rate NUMBER how fast, in % (default: 0.5)',
        '--size N N how large (default: 4 5)',
        '--out DIR where (default: none)',
        '--file FILE which (required)',
        '--kind {a,b} a kind (default: the first) ',
        '(default: none) --sign TEXT sign (default: 100%)',
        '--flag a flag',
    ):
        assert part in lines, (part, lines)
    assert lines.endswith('a flag') and '--tail' not in lines
