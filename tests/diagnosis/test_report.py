"""Reports have all facts and problems, and nothing private."""

from __future__ import annotations

import json

import pytest

from cotap_mm.diagnosis import privacy
from cotap_mm.diagnosis.facts import Problem
from cotap_mm.diagnosis.imports import Import
from cotap_mm.diagnosis.problems import find_problems
from cotap_mm.diagnosis.report import format_json, format_markdown, format_text

PROBLEMS = [Problem('it is broken', 'pip install it'), Problem('look out', is_broken=False)]


def test_text(healthy):
    text = format_text(healthy, find_problems(healthy))
    assert text.startswith('cotap doctor: everything needed is installed and works\n')
    for part in (
        'cotap_mm         0.1.0 (checkout, commit abc)',
        'torch build      CUDA 13.0, GPU usable',
        'GPU 0            H, 80 GB, compute capability 9.0, 79.0 GB free, computes',
        'mmcv.ops         1.0 s, stand-in of cotap_mm',
        'gradio           not installed; for cotap viewer: pip install "gradio>=6"',
        'work folder      work_dirs: 100.0 GB free of 200.0 GB, writable',
        'OMP_NUM_THREADS  4',
        '/dev/shm         32.0 GB free of 32.0 GB',
    ):
        assert part in text, text
    assert 'PATH' not in text


def test_problems_come_first(healthy):
    lines = format_text(healthy, PROBLEMS).splitlines()
    assert lines[:7] == [
        'cotap doctor: 1 broken, 1 warning',
        '',
        'broken',
        '  * it is broken',
        '      fix: pip install it',
        '',
        'warnings',
    ]


def test_markdown(healthy):
    text = format_markdown(healthy, PROBLEMS)
    assert '* broken: it is broken (fix: `pip install it`)\n* warning: look out\n' in text
    assert text.count('```') == 2 and text.endswith('</details>')


def test_json(healthy):
    report = json.loads(format_json(healthy, PROBLEMS))
    assert report['broken'] == [dict(text='it is broken', fix='pip install it')]
    assert report['versions']['mmcv-lite'] == '2.1.0'
    assert report['optional_packages']['lmdb'] == '3.0.0'


def test_without_torch_and_gpu(healthy):
    healthy.imports = {'torch': Import('crashed', error='SIGSEGV'), 'mmcv': Import()}
    healthy.machine.driver, healthy.machine.has_driver = '', False
    text = format_text(healthy, [])
    assert 'torch            crashed: SIGSEGV' in text and 'mmcv             not tried' in text
    assert 'NVIDIA driver    none found' in text


@pytest.fixture
def private(monkeypatch):
    monkeypatch.setenv('HOME', '/home/jdoe')
    monkeypatch.setattr(privacy.getpass, 'getuser', lambda: 'jdoe')
    return privacy.make_private()


@pytest.mark.parametrize(
    'text, expected',
    [
        ('/home/jdoe/runs', '~/runs'),
        ('/home/jdoe', '~'),
        ('a:/home/jdoe/a:/home/jdoe/b', 'a:~/a:~/b'),
        ('/home/jdoe2/x', '/home/.../x'),
        ('/scratch/jdoe/x', '/scratch/USER/x'),
        ('/scratch/jdoes/x', '/scratch/jdoes/x'),
        ('/Users/ann/x', '/Users/.../x'),
        ('https://me:secret@host/x', 'https://***@host/x'),
        ('https://token@host/x', 'https://***@host/x'),
        ('https://host:80/a@b', 'https://host:80/a@b'),
        ('torch 2.11.0', 'torch 2.11.0'),
    ],
)
def test_private_parts(private, text, expected):
    assert private(text) == expected


def test_common_user_names_are_no_secret(monkeypatch):
    monkeypatch.setenv('HOME', '/')
    monkeypatch.setattr(privacy.getpass, 'getuser', lambda: 'ubuntu')
    assert privacy.make_private()('/data/ubuntu/x') == '/data/ubuntu/x'
