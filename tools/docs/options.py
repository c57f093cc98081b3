"""Tables of command-line options for the documentation, from the parsers themselves.

    python tools/docs/options.py train    # print the table of cotap train

A page gets the table of a command where it has the line ``<!-- options: NAME -->``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # as a script, and for MkDocs
    sys.path.insert(0, str(ROOT))
if not all(map(importlib.util.find_spec, ('torch', 'mmengine', 'mmcv', 'mmpretrain'))):
    # Parsers need none of them. As for `cotap`, which has its name from here, importing the package
    # then checks no versions.
    _program, sys.argv[0] = sys.argv[0], 'cotap'
    import cotap_mm  # noqa: F401

    sys.argv[0] = _program

MARK = re.compile(r'^<!-- options: ([\w-]+) -->$', re.M)
_DEFAULT = re.compile(r'\s*\(default: ([^()]*)\)')
_OWN_GROUPS = ('positional arguments', 'options', 'optional arguments')


def fill_in(markdown: str) -> str:
    """Insert the table of each command that a page marks.

    Args:
        markdown (str): Text of the page.

    Returns:
        str: The text with a table below each mark.

    Raises:
        ValueError: If a mark names a command that does not exist.
    """
    return MARK.sub(lambda mark: options_table(mark[1]), markdown)


def options_table(command: str) -> str:
    """Format the options of a command as a Markdown table.

    Args:
        command (str): Name of a module in ``cotap_mm.cli``.

    Returns:
        str: Table with a row per option; options of a titled group follow under its title.

    Raises:
        ValueError: If there is no such command.
    """
    try:
        module = importlib.import_module(f'cotap_mm.cli.{command}')
    except ModuleNotFoundError as error:
        raise ValueError(f'there is no command {command!r}: {error}') from error
    parser = module.build_parser()
    lines = ['| option | default | meaning |', '|---|---|---|']
    for group in parser._action_groups:
        rows = [_row(parser, action) for action in group._group_actions if _is_shown(action)]
        if rows and group.title not in _OWN_GROUPS:
            lines.append(f'| **{group.title}** | | {_escape(group.description or "")} |')
        lines += rows
    return '\n'.join(lines)


def names_of(command: str) -> Iterator[str]:
    """Yield every option of a command that its help shows, such as ``--images``."""
    parser = importlib.import_module(f'cotap_mm.cli.{command}').build_parser()
    for action in parser._actions:
        if _is_shown(action):
            yield from action.option_strings


def _is_shown(action: argparse.Action) -> bool:
    return action.help is not argparse.SUPPRESS and action.dest != 'help'


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = (action.help or '') % {**vars(action), 'prog': parser.prog}
    stated = _DEFAULT.search(text)
    meaning = _escape(_DEFAULT.sub('', text, count=1))
    if action.choices is not None and not all(str(choice) in text for choice in action.choices):
        meaning += f'{": " if meaning else ""}{", ".join(f"`{each}`" for each in action.choices)}'
    default = _default(parser, action, stated[1] if stated else '')
    return f'| {_name(parser, action)} | {default} | {meaning} |'


def _name(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return the option as it is typed: its longest name, and its values."""
    names = sorted(action.option_strings, key=len)[-1:]
    if action.nargs == 0:
        words = names
    else:
        placeholder = action.dest if not names else action.dest.split('_')[-1].upper()
        if action.metavar is None and action.choices is not None and names:
            action.metavar = placeholder
        values = parser._get_formatter()._format_args(action, placeholder)
        words = [*names, re.sub(r'(\S+) \[\1 \.\.\.\]', r'\1 ...', values)]
    return f'`{" ".join(words)}`'.replace('|', r'\|')


def _default(parser: argparse.ArgumentParser, action: argparse.Action, stated: str) -> str:
    needed = getattr(parser, 'needed', ())
    if action.required or set(needed) & set(action.option_strings):
        return 'required'
    value = action.default
    if action.nargs == 0:
        return 'on' if value == (action.const or True) else 'off'
    if stated:
        choices = map(str, action.choices or ())
        typed = stated == str(value) or stated in choices or re.fullmatch(r'\d+|--[\w-]+', stated)
        return f'`{stated}`' if typed else _escape(stated)
    if isinstance(value, (list, tuple)):
        value = ' '.join(map(str, value))
    if value is None or value == '' or isinstance(value, dict) or value is argparse.SUPPRESS:
        return ''
    return f'`{value}`' if isinstance(value, (str, int, float)) else ''


def _escape(text: str) -> str:
    """Escape what Markdown would interpret, and set options in a fixed width."""
    text = re.sub(r'(?<!`)([*_<|\[])', r'\\\1', ' '.join(text.split()))
    return re.sub(r'(?<![\w`-])(--[a-z][a-z-]*[a-z])', r'`\1`', text)


if __name__ == '__main__':
    for each in sys.argv[1:]:
        print(options_table(each))
