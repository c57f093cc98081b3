"""Options and tools that error messages suggest exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from cotap_mm.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
OPTION = re.compile(r'(?<![\w-])--[a-z][a-z0-9_-]*[a-z0-9]')
# Options of other programs in our messages.
FOREIGN = {
    '--max-restarts',
    '--nproc_per_node',
    '--nproc-per-node',
    '--no-build-isolation',
    '--index-url',
    '--upgrade',
    '--export',
    '--signal',
    '--requeue',
    '--local-dir',
}
SAYS = {'print_log', 'print', 'warn', 'exit', 'error', 'warning', 'SystemExit', 'get'}


def sources():
    return [
        path
        for top in ('cotap_mm', 'tools')
        for path in sorted((ROOT / top).rglob('*.py'))
        if '.mim' not in path.parts
    ]


@functools.cache
def parsed(path):
    return ast.parse(path.read_text(encoding='utf-8'))


def called(node):
    function = node.func
    return getattr(function, 'attr', getattr(function, 'id', ''))


def options():
    """Options of all parsers."""
    found = set()
    for path in sources():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and called(node) == 'add_argument':
                found |= {
                    each.value
                    for each in node.args
                    if isinstance(each, ast.Constant) and str(each.value).startswith('--')
                }
    for path in (ROOT / 'tools').glob('*.sh'):
        found |= set(OPTION.findall(path.read_text(encoding='utf-8')))
    return found


@functools.cache
def messages(path):
    """Line number and text of the messages that a file raises, logs or returns."""
    found = []
    for node in ast.walk(parsed(path)):
        is_said = isinstance(node, ast.Call) and (
            called(node) in SAYS or called(node).endswith(('Error', 'Image', 'Warning', 'Found'))
        )
        if is_said or isinstance(node, (ast.Raise, ast.Return)):
            found.append((node.lineno, ast.unparse(node)))
    return found


KNOWN = options() | {'--version', '--completion'}  # of cotap itself


def test_the_parsers_are_found():
    assert {'--images', '--ann-file', '--value-range', '--work-dir', '--help-me'} - KNOWN == {
        '--help-me'
    }


@pytest.mark.slow
def test_options_in_messages_exist():
    wrong = [
        (path.name, line, option)
        for path in sources()
        for line, text in messages(path)
        for option in OPTION.findall(text)
        if option not in KNOWN | FOREIGN
    ]
    assert not wrong, f'messages name options that no tool has: {wrong}'


def test_tools_in_messages_exist():
    for path in sources():
        for _, text in messages(path):
            for tool in re.findall(r'\btools/[\w/]+\.(?:py|sh)\b', text):
                assert (ROOT / tool).is_file(), (path.name, text)
            for command in re.findall(r'\bcotap ([a-z]+)', text):
                assert command in COMMANDS, (path.name, text)


def test_every_tool_with_images_accepts_a_list():
    """Every tool that reads images of users has an option for ``ann_file``."""
    for command in ('train', 'neighbors', 'pack', 'visualize', 'viewer', 'check'):
        text = (ROOT / 'cotap_mm' / 'cli' / f'{command}.py').read_text(encoding='utf-8')
        assert "'--ann-file'" in text or 'add_ann_file(parser' in text, command
