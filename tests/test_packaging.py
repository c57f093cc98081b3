"""Requirements, the set-up script, and skipping without shared data."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SYSTEM_PATH = '/usr/bin:/bin'


def test_no_upper_bounds_on_mm_packages():
    for path in (ROOT / 'requirements').glob('*.txt'):
        for line in path.read_text().splitlines():
            if line.startswith('mm'):
                assert '<' not in line and '==' not in line, f'{path.name}: {line}'
    assert 'mmengine' not in (ROOT / 'requirements' / 'runtime.txt').read_text()


@pytest.fixture
def setup_env(tmp_path):
    """Run a copy of the set-up script with only the given environment variables."""
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    shutil.copy(ROOT / 'setup.py', tmp_path)
    (tmp_path / 'tools').mkdir()
    script = shutil.copy(ROOT / 'tools' / 'setup_env.sh', tmp_path / 'tools')

    def run(*arguments, **environment):
        done = subprocess.run(
            ['bash', str(script), '--dry-run', *arguments],
            text=True,
            capture_output=True,
            env={'PATH': SYSTEM_PATH, **environment},
        )
        assert not (tmp_path / '.venv').exists()
        return done

    return run


def fake_python(folder, version, name='python3'):
    """Create an executable that only prints a version."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f'#!/bin/sh\necho {version}\n')
    (folder / name).chmod(0o755)
    return str(folder / name)


def test_lite_needs_no_compiler(setup_env):
    done = setup_env('--lite', PYTHON=sys.executable, CXX='no-such-compiler')
    assert done.returncode == 0, done.stderr
    assert '-m venv' in done.stdout and 'mmcv-lite==2.1.0' in done.stdout
    assert 'MMCV_WITH_OPS' not in done.stdout and 'mmsegmentation' not in done.stdout


def test_full_needs_no_compiler(setup_env):
    done = setup_env('--full', PYTHON=sys.executable, CXX='no-such-compiler')
    assert done.returncode == 0, done.stderr
    assert 'mmcv-lite==2.1.0' in done.stdout and 'MMCV_WITH_OPS' not in done.stdout
    assert 'mmsegmentation' in done.stdout and 'mmdet' in done.stdout


def test_compiled_operators_are_an_option(setup_env, tmp_path):
    compiler = fake_python(tmp_path / 'bin', '0', name='my-c++')
    done = setup_env('--compiled', PYTHON=sys.executable, CXX=compiler)
    assert done.returncode == 0, done.stderr
    (build,) = (line for line in done.stdout.splitlines() if 'MMCV_WITH_OPS=1' in line)
    for setting in ('CFLAGS=-O1 -g0', '--no-build-isolation', 'mmcv==2.1.0', 'MAX_JOBS='):
        assert setting in build
    assert 'mmsegmentation' in done.stdout and 'mmcv-lite' not in done.stdout


def test_compiling_without_a_compiler_says_so(setup_env):
    done = setup_env('--compiled', PYTHON=sys.executable, CXX='no-such-compiler')
    assert done.returncode == 1 and 'needs a C++ compiler' in done.stderr
    assert '--full needs none' in done.stderr


def test_a_folder_of_mmcv_wheels_asks_for_compiled_operators(setup_env, tmp_path):
    compiler = fake_python(tmp_path / 'bin', '0', name='my-c++')
    links = dict(MMCV_FIND_LINKS=str(tmp_path), CXX=compiler)
    assert 'MMCV_WITH_OPS' in setup_env('--full', PYTHON=sys.executable, **links).stdout
    assert 'mmcv-lite==2.1.0' in setup_env('--lite', PYTHON=sys.executable, **links).stdout


def test_torch_version_is_chosen_by_the_user(setup_env):
    done = setup_env(PYTHON=sys.executable, TORCH_VERSION='2.9.1')
    assert 'torch==2.9.1 torchvision==0.24.1' in done.stdout
    done = setup_env(PYTHON=sys.executable, TORCH_VERSION='2.9.1', TORCHVISION_VERSION='0.24.0')
    assert 'torch==2.9.1 torchvision==0.24.0' in done.stdout
    done = setup_env(PYTHON=sys.executable, TORCH_VERSION='2.9')
    assert done.returncode == 1 and 'must be a full version' in done.stderr


def test_uv_installs_unless_pip_is_asked_for(setup_env):
    with_uv = setup_env(PYTHON=sys.executable).stdout
    assert re.search(r'would run: .*uv pip install .*torch==', with_uv)
    with_pip = setup_env(PYTHON=sys.executable, INSTALLER='pip').stdout
    assert 'uv pip' not in with_pip and re.search('python -m pip .*install .*torch==', with_pip)


def test_smaller_torch_without_cuda(setup_env):
    done = setup_env('--cpu', PYTHON=sys.executable)
    assert re.search('uv pip install .*--torch-backend cpu torch==', done.stdout)
    assert '1 to 2 GB' in done.stdout and 'no NVIDIA GPU' not in done.stdout
    done = setup_env('--cpu', PYTHON=sys.executable, INSTALLER='pip')
    assert done.returncode == 1 and '--cpu needs uv' in done.stderr


@pytest.mark.skipif(
    os.path.exists('/dev/nvidiactl') or platform.machine() != 'x86_64', reason='has a GPU'
)
def test_a_machine_without_a_gpu_says_what_is_smaller(setup_env):
    done = setup_env(PYTHON=sys.executable)
    assert 'no NVIDIA GPU found: setup_env.sh --cpu installs PyTorch without CUDA' in done.stdout
    assert 'about 5 GB on disk, 1 to 10 minutes' in done.stdout


def test_python_39_gets_its_last_torch(setup_env, tmp_path):
    done = setup_env(PYTHON=fake_python(tmp_path / 'bin', '3.9'))
    assert done.returncode == 0, done.stderr
    assert 'torch==2.8.0 torchvision==0.23.0' in done.stdout
    assert 'Python 3.9: torch 2.8.0 is the last release that supports it' in done.stdout


def test_refuses_another_python(setup_env, tmp_path):
    done = setup_env(PYTHON=fake_python(tmp_path / 'bin', '3.7'))
    assert done.returncode == 1 and 'Python 3.9 to 3.14 is needed' in done.stderr
    done = setup_env(PYTHON='no-such-python')
    assert done.returncode == 1 and "no Python found as 'no-such-python'" in done.stderr


def test_takes_a_fitting_python_beside_a_newer_one(setup_env, tmp_path):
    folder = tmp_path / 'bin'
    fake_python(folder, '3.15')
    fake_python(folder, '3.10', name='python3.10')
    for name in ('python3.13', 'python3.12', 'python3.11'):
        fake_python(folder, '3.15', name=name)
    done = setup_env(PATH=f'{folder}:{SYSTEM_PATH}')
    assert done.returncode == 0, done.stderr
    assert 'would run: python3.10 -m venv' in done.stdout


def test_keeping_torch_needs_one(setup_env, tmp_path):
    fake_python(tmp_path / 'env' / 'bin', '3.11', name='python')
    done = setup_env('--no-torch', VIRTUAL_ENV=str(tmp_path / 'env'), PATH=SYSTEM_PATH)
    assert done.returncode == 0 and 'keeping the installed torch' in done.stdout
    done = setup_env('--no-torch', PYTHON=sys.executable)
    assert done.returncode == 1 and 'needs torch >= 2.1' in done.stderr


def test_unknown_argument(setup_env):
    done = setup_env('--fast')
    assert done.returncode == 2 and 'unknown argument --fast' in done.stderr


def test_torch_default_is_written_once():
    script = (ROOT / 'tools' / 'setup_env.sh').read_text()
    assert len(re.findall(r'2\.11\.0', script)) == 1


@pytest.mark.slow
@pytest.mark.parametrize('has_shared, line', [(True, '1 error'), (False, '1 skipped')])
def test_skipping_for_data_that_are_there_fails(tmp_path, has_shared, line):
    (tmp_path / 'repository' / 'tests').mkdir(parents=True)
    for name in ('__init__.py', 'conftest.py'):
        shutil.copy(ROOT / 'tests' / name, tmp_path / 'repository' / 'tests')
    shutil.copytree(ROOT / 'tests' / 'helpers', tmp_path / 'repository' / 'tests' / 'helpers')
    (tmp_path / 'repository' / 'tests' / 'test_one.py').write_text(
        'def test_one(shared_data):\n    pass\n'
    )
    if has_shared:
        (tmp_path / 'shared').mkdir()
    environment = {k: v for k, v in os.environ.items() if k != 'COTAP_SHARED_DIR'}
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '.'],
        cwd=tmp_path / 'repository',
        env=environment,
        capture_output=True,
        text=True,
    )
    assert line in done.stdout, done.stdout
