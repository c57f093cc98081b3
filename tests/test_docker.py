"""Dockerfile and devcontainer refer to files, stages and commands that exist; nothing is built."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from cotap_mm.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
INSTRUCTIONS = ('ARG', 'CMD', 'COPY', 'ENTRYPOINT', 'ENV', 'FROM', 'RUN', 'USER', 'WORKDIR')


def instructions():
    """Return the instructions of the Dockerfile: (name, rest)."""
    text = (ROOT / 'Dockerfile').read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith('#')]
    whole = re.sub(r'\\\n\s*', '', '\n'.join(lines))
    return [tuple(line.split(None, 1)) for line in whole.splitlines()]


def words(name):
    return [shlex.split(rest) for each, rest in instructions() if each == name]


def ignored(name):
    """Whether .dockerignore keeps a file or folder at the top out of the build."""
    lines = (ROOT / '.dockerignore').read_text().splitlines()
    assert '*' in lines
    return f'!{name}' not in [line.rstrip('/') for line in lines]


def test_only_known_instructions():
    assert {name for name, _ in instructions()} <= set(INSTRUCTIONS)


def test_what_is_copied_exists_and_is_not_ignored():
    sources = [
        word
        for copy in words('COPY')
        for word in [each for each in copy if not each.startswith('--')][:-1]
    ]
    assert {'setup.py', 'cotap_mm/', 'configs/', 'requirements/'} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source.rstrip('/')), source
    assert ignored('.git') and ignored('work_dirs') and ignored('.venv')


def test_the_package_is_built_from_what_is_copied():
    """setup.py reads files; all of them are there."""
    copied = {word.rstrip('/') for copy in words('COPY') for word in copy}
    text = (ROOT / 'setup.py').read_text()
    for name in re.findall(r"ROOT / '([\w.]+)'", text):
        assert name in copied, name
    for name in re.search(r'SHIPPED = \((.+)\)', text)[1].replace("'", '').split(', '):
        assert name in copied, name


def test_what_is_installed_exists():
    found = [name for run in words('RUN') for flag, name in zip(run, run[1:]) if flag == '-r']
    assert {f'requirements/{name}.txt' for name in ('runtime', 'mminstall', 'tests')} <= set(found)
    for name in found:
        assert (ROOT / name).is_file(), name
    mmcv = re.search(r"MMCV = '(.+)'", (ROOT / 'setup.py').read_text())[1]
    assert any(mmcv in run for run in words('RUN'))


def test_torch_is_that_of_the_set_up():
    arguments = dict(
        word.split('=') for argument in words('ARG') for word in argument if '=' in word
    )
    script = (ROOT / 'tools' / 'setup_env.sh').read_text()
    assert f'torch={arguments["TORCH"]};' in script
    minor, patch = arguments['TORCH'].split('.')[1:]
    assert arguments['TORCHVISION'] == f'0.{int(minor) + 15}.{patch}'
    assert arguments['COMPUTE'] == 'cpu'


def test_no_compiler_and_no_root():
    text = ' '.join(rest for name, rest in instructions() if name == 'RUN')
    assert not re.search(r'\b(gcc|g\+\+|build-essential|clang|cmake|nvcc)\b', text)
    assert words('USER')[-1] == ['cotap']
    names = [name for name, _ in instructions()]
    last_root = max(i for i, each in enumerate(instructions()) if each == ('USER', 'root'))
    assert 'USER' in names[last_root + 1 :]


def test_lists_of_packages_are_removed():
    for run in words('RUN'):
        if 'apt-get' in run:
            assert '--no-install-recommends' in run and '/var/lib/apt/lists/*' in run


def parse(command):
    """Parse a command line of cotap, with the words after its name."""
    name, *rest = command
    if name.startswith('-'):
        assert name in ('--help', '--version')
        return
    assert name in COMMANDS, name
    importlib.import_module(f'cotap_mm.cli.{name}').build_parser().parse_args(rest)


def test_commands_exist():
    assert words('ENTRYPOINT') == [['[cotap]']] and words('CMD') == [['[--help]']]
    shown = re.findall(
        r'^#.* cotap ((?:doctor|train)[^#\n]*)', (ROOT / 'Dockerfile').read_text(), re.M
    )
    run = [rest.split('cotap ')[-1] for name, rest in instructions() if '&& cotap ' in rest]
    assert len(shown) == 2 and run == ['doctor']
    for command in (*shown, *run, '--help'):
        parse(command.split())


@pytest.fixture(scope='module')
def container():
    return json.loads((ROOT / '.devcontainer' / 'devcontainer.json').read_text())


def test_devcontainer(container):
    build = container['build']
    folder = ROOT / '.devcontainer'
    assert (folder / build['dockerfile']).resolve() == ROOT / 'Dockerfile'
    assert (folder / build['context']).resolve() == ROOT
    stages = [stage[-1] for stage in words('FROM')]
    assert build['target'] in stages and stages[-1] == 'runtime', 'the last one is the default'
    assert [container['remoteUser']] in words('USER')
    assert container['customizations']['vscode']['settings'][
        'python.defaultInterpreterPath'
    ].startswith(words('RUN')[1][-1])


def test_what_the_devcontainer_runs_exists(container):
    command = container['postCreateCommand']
    for name in re.findall(r'\bcotap_mm/[\w/.]+', command):
        assert (ROOT / name).is_file(), name
    assert command.endswith('&& cotap doctor')
