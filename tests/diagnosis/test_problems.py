"""Each problem of an installation is found, with the command that repairs it."""

from __future__ import annotations

import re

import pytest

from cotap_mm.diagnosis.facts import Facts
from cotap_mm.diagnosis.hardware import GIB, Folder
from cotap_mm.diagnosis.imports import Import
from cotap_mm.diagnosis.problems import find_problems
from cotap_mm.diagnosis.variables import shown_variables
from cotap_mm.diagnosis.version_problems import matching_torchvision


def only(facts):
    """Return the one problem of an installation."""
    found = find_problems(facts)
    assert len(found) == 1, found
    return found[0]


def test_a_healthy_installation_has_no_problems(healthy):
    assert find_problems(healthy) == []


def test_without_anything_every_requirement_is_listed():
    texts = [problem.text for problem in find_problems(Facts(python=(3, 11, 7)))]
    assert [text.split()[0] for text in texts] == ['torch', 'mmengine', 'mmcv', 'mmpretrain']
    assert all(problem.remedy for problem in find_problems(Facts(python=(3, 11, 7))))


@pytest.mark.parametrize('version, is_broken', [((3, 8, 1), True), ((3, 15, 0), False)])
def test_python(healthy, version, is_broken):
    healthy.python = version
    problem = only(healthy)
    assert problem.is_broken == is_broken and '3.9' in problem.text or '3.14' in problem.text


@pytest.mark.parametrize(
    'changes, text, remedy',
    [
        ({'mmengine': '0.10.4'}, 'mmengine >= 0.10.6 is required, 0.10.4', 'pip install "mmengine'),
        ({'mmengine': None}, 'mmengine >= 0.10.6 is required but not', 'pip install "mmengine'),
        ({'torchvision': None}, 'torchvision is required', '"torchvision==0.26.0"'),
        ({'mmcv': '2.1.0'}, 'mmcv and mmcv-lite are installed', 'pip uninstall -y mmcv mmcv-lite'),
        ({'onedl-mmpretrain': '1.3.6'}, 'overwrite each other', '"onedl-mmpretrain==1.3.6"'),
        ({'torchvision': '0.25.0'}, 'torchvision 0.25.0 does not belong to torch 2.11', '==0.26.0'),
        ({'mmcv-lite': '2.2.0'}, 'mmdet 3.3.0 rejects mmcv-lite 2.2.0', 'mmcv-lite>=2.1,<2.2'),
    ],
)
def test_versions(healthy, changes, text, remedy):
    healthy.versions.update(changes)
    healthy.versions = {name: each for name, each in healthy.versions.items() if each}
    problem = only(healthy)
    assert problem.is_broken and text in problem.text and remedy in problem.remedy


def test_old_torch_needs_old_numpy_and_transformers(healthy):
    healthy.versions.update(torch='2.1.2+cu118', torchvision='0.16.2+cu118', transformers='4.50.0')
    numpy, transformers = find_problems(healthy)
    assert numpy.remedy == 'pip install "numpy<2"'
    assert transformers.remedy == 'pip install "transformers>=4.40,<4.49"'
    healthy.versions.update(torch='2.4.1', torchvision='0.19.1', transformers='5.0.0')
    assert only(healthy).remedy == 'pip install "transformers>=4.40,<5"'


def test_a_local_build_of_a_fitting_torchvision_is_fine(healthy):
    healthy.versions.update(torch='2.11.0+cu126', torchvision='0.26.0+cu126')
    assert find_problems(healthy) == []
    assert matching_torchvision('2.9.1+cpu') == '0.24.1'
    assert matching_torchvision('1.13.0') == matching_torchvision('') == ''


def test_setuptools_without_pkg_resources(healthy):
    healthy.has_pkg_resources = False
    problem = only(healthy)
    assert not problem.is_broken and problem.remedy == 'pip install "setuptools<81"'


def test_failed_imports_are_reported_once(healthy):
    error = 'ImportError: libGL.so.1: cannot open shared object file'
    healthy.imports.update(
        cv2=Import('failed', error=error),
        mmcv=Import('failed', error=error),
        **{'mmcv.ops': Import('crashed', error='SIGSEGV')},
    )
    first, second = find_problems(healthy)
    assert second.text == f'cv2 cannot be imported: {error}'
    assert 'opencv-python-headless' in second.remedy
    assert first.text == 'mmcv.ops crashed on import: SIGSEGV' and 'mmcv-lite' in first.remedy


def test_a_broken_torch_is_the_only_failed_import(healthy):
    healthy.imports['torch'] = Import('failed', error='OSError: libcudart.so.13')
    healthy.imports['cotap_mm.models'] = Import('failed', error='something else')
    problem = only(healthy)
    assert 'libcudart' in problem.text
    assert problem.remedy == ('pip install --force-reinstall "torch==2.11.0" "torchvision==0.26.0"')


def test_the_refusal_of_cotap_mm_does_not_repeat_what_is_missing(healthy):
    del healthy.versions['mmpretrain']
    healthy.imports['cotap_mm'] = Import('failed', error='ImportError: cotap_mm cannot start')
    assert 'mmpretrain' in only(healthy).text


@pytest.mark.parametrize(
    'torch, environment, text, is_broken',
    [
        (dict(cuda=None, available=False, gpus=[]), {}, 'built without CUDA', False),
        (dict(available=False, gpus=[], warning='too old'), {}, 'no GPU .*: too old', True),
        (
            dict(available=False, gpus=[]),
            {'CUDA_VISIBLE_DEVICES': ''},
            "CUDA_VISIBLE_DEVICES='' hides",
            False,
        ),
        (
            dict(available=False, gpus=[]),
            {'CUDA_VISIBLE_DEVICES': '1'},
            'finds no GPU',
            True,
        ),
    ],
)
def test_a_gpu_that_is_not_used(healthy, torch, environment, text, is_broken):
    healthy.imports['torch'].facts.update(torch)
    healthy.environment = environment
    problem = only(healthy)
    assert problem.is_broken == is_broken and problem.remedy
    assert re.search(text, problem.text), problem.text
    healthy.machine.has_driver = False  # a machine without a GPU is not broken
    assert find_problems(healthy) == []


def test_single_gpus(healthy):
    good = healthy.imports['torch'].facts['gpus'][0]
    healthy.imports['torch'].facts['gpus'] = [
        good,
        dict(good, free=GIB),
        dict(good, error='RuntimeError: no kernel image'),
    ]
    broken, busy = find_problems(healthy)
    assert 'GPU 2' in broken.text and 'no kernel image' in broken.text
    assert 'use 79 of 80 GB on GPU 1' in busy.text and not busy.is_broken
    healthy.imports['torch'].facts.update(nccl='', gpus=[good, good])
    assert 'without NCCL' in only(healthy).text


def test_machine_and_folders(healthy):
    healthy.machine.shared_memory = 64 * 2**20
    healthy.machine.open_files = 256
    healthy.folders = {
        'work folder': Folder('runs', GIB, 100 * GIB, error='Read-only file system'),
        'temporary files': Folder('/tmp', GIB, 100 * GIB),
    }
    problems = find_problems(healthy)
    assert [problem.is_broken for problem in problems] == [True, False, False, False]
    assert problems[0].text == 'runs (work folder) is not writable: Read-only file system'
    assert '--work-dir' in problems[0].remedy
    assert '/dev/shm has 64 MB' in problems[1].text and '--shm-size' in problems[1].remedy
    assert problems[2].remedy == 'ulimit -n 4096' and '1.0 GB of free' in problems[3].text


@pytest.mark.parametrize(
    'environment, text',
    [
        ({'COTAP_TRACEBAK': '1'}, 'COTAP_TRACEBAK is set, which'),
        ({'COTAP_DIST_TIMEOUT': '30m'}, "COTAP_DIST_TIMEOUT must be a number, got '30m'"),
        ({'OMP_NUM_THREADS': '0'}, 'OMP_NUM_THREADS must be'),
        ({'RANK': '0', 'WORLD_SIZE': '8'}, 'waits for the other ranks'),
    ],
)
def test_variables(healthy, environment, text):
    healthy.environment = environment
    problem = only(healthy)
    assert text in problem.text and 'unset' in problem.remedy and not problem.is_broken


def test_variables_of_a_launcher_are_fine(healthy):
    healthy.environment = {'RANK': '0', 'WORLD_SIZE': '8', 'TORCHELASTIC_RUN_ID': 'none'}
    assert find_problems(healthy) == []


def test_only_variables_that_matter_are_shown():
    shown = shown_variables(
        {'HF_TOKEN': 'hf_abc', 'CUDA_HOME': '/cuda', 'EDITOR': 'vi', 'COTAP_X': '1', 'AWS_KEY': 'k'}
    )
    assert shown == {'COTAP_X': '1', 'CUDA_HOME': '/cuda', 'HF_TOKEN': '(set, not shown)'}


def test_every_variable_of_the_package_is_known():
    import re
    from pathlib import Path

    import cotap_mm
    from cotap_mm.diagnosis.variables import OWN

    folder = Path(cotap_mm.__file__).parent
    read = {
        name
        for path in folder.rglob('*.py')
        if '.mim' not in path.parts
        for name in re.findall(r'\bCOTAP_[A-Z_]+\b', path.read_text(encoding='utf-8'))
    }
    assert 'COTAP_HASH_IMAGES' in read and read <= set(OWN)
