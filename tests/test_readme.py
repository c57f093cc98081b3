"""Commands in the README name existing files, targets and flags; its tables are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.tool_loading import help_of

ROOT = Path(__file__).resolve().parent.parent


def commands():
    text = (ROOT / 'README.md').read_text()
    for block in re.findall(r'```bash\n(.*?)```', text, re.S):
        for line in block.splitlines():
            line = line.split('  #')[0].split(' # ')[0].strip()
            if line:
                yield line


def test_there_are_commands():
    assert {'make demo', 'make test'} <= {c.split('    ')[0].strip() for c in commands()}


@pytest.mark.parametrize('command', sorted(set(commands())))
def test_command_names_existing_files_and_flags(command):
    words = command.split()
    for word in words:
        if re.match(r'(tools|configs)/', word):
            assert (ROOT / word).is_file(), word
    if words[0] == 'make':
        assert re.search(rf'^{words[1]}:', (ROOT / 'Makefile').read_text(), re.M), words[1]
    tool = next((word for word in words if word.endswith('.py') and 'tools/' in word), None)
    if tool is None and any('train.sh' in word for word in words):
        tool = 'tools/train.py'
    flags = [word for word in words if word.startswith('--')]
    if tool and flags:
        known = help_of(Path(tool).stem)
        for flag in flags:
            assert flag in known, f'{tool} has no {flag}'


def test_every_config_is_in_the_table():
    text = (ROOT / 'README.md').read_text()
    for path in (ROOT / 'configs' / 'cotap').glob('*.py'):
        if 'renamed = ' in path.read_text():  # an old path that forwards for one release
            continue
        assert f'`{path.stem}`' in text, path.stem


def test_every_tool_explains_itself():
    for path in sorted({*(ROOT / 'tools').glob('*.py')} - {ROOT / 'tools' / 'early_stop.py'}):
        assert help_of(path.stem).startswith(f'usage: {path.name}'), path.name
