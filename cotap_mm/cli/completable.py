"""What can follow a command on the command line, for the completion of shells."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import dataclass
from typing import Optional, Union

from cotap_mm.command_line.choices import PROTOCOLS
from cotap_mm.command_line.config_names import shipped_configs

_FILES = ('FILE', 'PATH', 'CHECKPOINT', '[NAME=]CHECKPOINT', 'BACKBONE')
_FOLDERS = ('DIR',)


@dataclass(frozen=True)
class Values:
    """Values of an argument.

    Attributes:
        count (str): How many follow an option: '0', a number, or '+' for one or more.
        kind (str): 'files', 'folders', or '' for neither.
        words (tuple[str, ...]): Valid words, in addition.
    """

    count: str
    kind: str = ''
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completable:
    """An argument of a command.

    Attributes:
        names (tuple[str, ...]): Names of an option; empty for a positional argument.
        values (Values): What it takes.
        text (str): First sentence of its help.
        metavar (str): Name of its value.
    """

    names: tuple[str, ...]
    values: Values
    text: str
    metavar: str


def completable(command: str) -> list[Completable]:
    """Describe the arguments of a command that its help shows.

    Args:
        command (str): Name of the command.

    Returns:
        list[Completable]: Options and positional arguments, in the order of the help.
    """
    parser = importlib.import_module(f'cotap_mm.cli.{command}').build_parser()
    return [
        Completable(
            tuple(action.option_strings),
            _values_of(action),
            _first_sentence(action.help or ''),
            _metavar_of(action),
        )
        for action in parser._actions
        if action.help != argparse.SUPPRESS
    ]


def _metavar_of(action: argparse.Action) -> str:
    metavar: Optional[Union[str, tuple[str, ...]]] = action.metavar
    if metavar is None:
        metavar = getattr(action.type, 'metavar', None) or action.dest.upper()
    return metavar if isinstance(metavar, str) else ' '.join(metavar)


def _values_of(action: argparse.Action) -> Values:
    if action.nargs == 0:
        return Values('0')
    count = str(action.nargs) if isinstance(action.nargs, int) else '1'
    if action.nargs in ('+', '*'):
        count = '+'
    metavar = _metavar_of(action)
    if action.choices is not None:
        return Values(count, words=tuple(map(str, action.choices)))
    if metavar == 'PROTOCOL':
        return Values(count, words=PROTOCOLS)
    if action.dest == 'config':
        configs = shipped_configs()
        names = configs['cotap'] + (configs['downstream'] if not action.option_strings else [])
        return Values(count, 'files', tuple(names))
    if metavar in _FOLDERS:
        return Values(count, 'folders')
    if metavar in _FILES or not action.option_strings:
        return Values(count, 'files')
    return Values(count)


def _first_sentence(text: str) -> str:
    """Help without the explanations after a semicolon or a parenthesis, at most 60 characters."""
    for mark in (' (', ';', ': ', '. '):
        text = text.split(mark)[0]
    return text if len(text) <= 60 else f'{text[:57].rsplit(" ", 1)[0]} ...'
