"""Pinned and hashed requirements, licenses, and no network at import."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.helpers.tool_loading import load_tool

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / 'requirements'
LOCKS = sorted((REQUIREMENTS / 'lock').glob('*.txt'))
PIN = re.compile(r'(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[A-Za-z0-9.!+]+)')
HASH = re.compile(r'--hash=sha256:[0-9a-f]{64}')


def pins(text):
    """Name -> version of a lock; every pin must have hashes, and there must be nothing else."""
    found = {}
    for line in re.sub(r'\\\n', ' ', text).splitlines():
        if not line or line.startswith('#'):
            continue
        pin, *hashes = line.split()
        match = PIN.fullmatch(pin)
        assert match, f'not a pin: {line[:80]}'
        assert hashes and all(HASH.fullmatch(word) for word in hashes), f'no hash: {line[:80]}'
        assert match['name'] not in found, f'twice: {pin}'
        found[match['name']] = match['version']
    return found


def lock(name='linux-cp311'):
    return pins((REQUIREMENTS / 'lock' / f'{name}.txt').read_text())


def ranges(files='*.txt'):
    """Every line of requirements/*.txt."""
    return [
        Requirement(line)
        for path in sorted(REQUIREMENTS.glob(files))
        for line in path.read_text().splitlines()
        if line and not line.startswith('#')
    ]


@pytest.mark.parametrize('path', LOCKS, ids=lambda path: path.stem)
def test_every_line_is_pinned_and_hashed(path):
    text = path.read_text()
    assert pins(text)
    assert '://' not in text and 'index-url' not in text and ' @ ' not in text


@pytest.mark.parametrize(
    'bad',
    [
        'numpy>=2 \\\n    --hash=sha256:' + 64 * 'a',
        'numpy==2.0',
        'numpy==2.0 --hash=sha256:abc',
        'numpy @ https://example.org/numpy.whl',
        '--index-url https://example.org/simple',
        'numpy==2.0 --hash=md5:' + 32 * 'a',
    ],
)
def test_the_check_of_the_lock_can_fail(bad):
    with pytest.raises(AssertionError):
        pins(bad)


def test_the_lock_fits_the_ranges():
    locked = lock()
    assert len(ranges()) > 25
    documentation = {requirement.name for requirement in ranges('docs.txt')}
    for requirement in ranges():
        if requirement.name in documentation:  # with a lock of its own
            continue
        name = canonicalize_name(requirement.name)
        assert name in locked, f'{name} is not in the lock: make lock'
        assert requirement.specifier.contains(locked[name]), f'{requirement} and {locked[name]}'


def test_the_lock_of_the_documentation_fits_its_ranges():
    locked = lock('docs')
    assert len(ranges('docs.txt')) == 3
    for requirement in ranges('docs.txt'):
        assert requirement.specifier.contains(locked[requirement.name]), requirement
        assert canonicalize_name(requirement.name) not in lock(), 'the tests need no mkdocs'
    # Both can be installed in one environment.
    both = set(locked) & set(lock())
    assert {name: locked[name] for name in both} == {name: lock()[name] for name in both}


def test_the_lock_has_what_set_up_installs():
    script = (ROOT / 'tools' / 'setup_env.sh').read_text()
    torch = re.search(r'else torch=([0-9.]+); fi', script)[1]
    locked = lock()
    assert locked['torch'] == torch
    assert locked['torchvision'] == f'0.{int(torch.split(".")[1]) + 15}.{torch.split(".")[2]}'
    mmcv = re.search(r'^mmcv_version=(.+)$', script, re.M)[1]
    assert lock('mmcv') == {'mmcv': mmcv} and lock('mmcv-lite') == {'mmcv-lite': mmcv}
    extra = re.search(r"^MMCV = 'mmcv-lite(.+)'$", (ROOT / 'setup.py').read_text(), re.M)[1]
    assert SpecifierSet(extra).contains(mmcv)
    assert not {'mmcv', 'mmcv-lite'} & set(locked), 'either of them is chosen'


def test_the_table_of_licenses_is_complete():
    tool = load_tool('list_licenses')
    _, _, text = tool.PAGE.read_text().partition('<!-- table: tools/list_licenses.py')
    rows = re.findall(r'^\| (\S+) \| (\S+) \| (.+?) \| (.+?) \|$', text, re.M)
    table = {name: cells for name, *cells in rows[1:]}  # after the header
    needed = {canonicalize_name(requirement.name) for requirement in ranges()}
    assert {canonicalize_name(name) for name in table} == needed | {'torch', 'torchvision', 'mmcv'}
    for name, (tested, license, _) in table.items():
        assert license != 'not stated', name
        try:
            same = version(name) == tested
        except PackageNotFoundError:
            continue
        if same:
            assert license == tool.license_of(tool.installed(name)), f'{name}: run it with --write'


#: An audit hook cannot be taken off again, hence a process of its own.
OFFLINE = """
import socket, sys

def refuse(event, arguments):
    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname', 'socket.sendto',
                 'urllib.Request', 'http.client.connect'):
        if event != 'socket.connect' or arguments[0].family != socket.AF_UNIX:
            print('network:', event, arguments[1:], flush=True)
            import os
            os._exit(3)

sys.addaudithook(refuse)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    'code, status',
    [
        ('import cotap_mm, cotap_mm.models, cotap_mm.evaluation, cotap_mm.engine.launch.runner', 0),
        ('import socket; socket.create_connection(("127.0.0.1", 9))', 3),
        ('from urllib.request import urlopen; urlopen("http://127.0.0.1:9")', 3),
    ],
)
def test_imports_use_no_network(code, status):
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', OFFLINE + code],
        text=True,
        capture_output=True,
        cwd=ROOT,
    )
    assert done.returncode == status, done.stdout + done.stderr[-2000:]
