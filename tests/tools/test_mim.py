"""``mim train`` and ``mim test`` run our configs in a separate environment.

openmim pins old packages, so it is not installed beside everything else: a virtual environment
gets it, and sees the packages of this one behind its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from cotap_mm.registry import MODELS, build
from tests.downstream.test_training import ROOT, VIT, metrics, shrink
from tests.helpers.fake_data import write_for


@pytest.fixture(scope='module')
def mim(tmp_path_factory):
    """Function that runs mim in a folder."""
    top = tmp_path_factory.mktemp('mim')
    venv.create(top, with_pip=True)
    python = top / 'bin' / 'python'
    site = subprocess.run(
        [python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (Path(site) / 'behind.pth').write_text(  # with the .pth files in the other folder
        f'import site; site.addsitedir({sysconfig.get_path("purelib")!r})\n'
        f'{Path(__file__).resolve().parents[2]}\n'
    )
    installed = subprocess.run(
        [python, '-m', 'pip', 'install', '-q', 'openmim'], capture_output=True, text=True
    )
    assert (top / 'bin' / 'mim').is_file(), installed.stderr[-2000:]

    def run(folder, *arguments):
        environment = dict(os.environ, PYTHONPATH=str(folder), OMP_NUM_THREADS='1')
        environment['PATH'] = f'{top / "bin"}{os.pathsep}{environment["PATH"]}'
        done = subprocess.run(
            [top / 'bin' / 'mim', *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
        )
        text = done.stdout + done.stderr
        assert done.returncode == 0 and 'Traceback' not in text, text[-3000:]
        return text

    return run


def documented_commands():
    """Lines of the documentation that run mim."""
    pages = [ROOT / 'docs' / f'downstream_{name}.md' for name in ('segmentation', 'detection')]
    text = '\n'.join(page.read_text() for page in pages)
    return re.findall(r'^(mim train .*\.py)$', text, re.M)


def prepare(folder, file):
    """Write a shipped config at toy size, with its data and initial weights."""
    write_for(Path(file).stem, folder)
    config = shrink(Config.fromfile(ROOT / file))
    config.model.backbone.init_cfg.checkpoint = 'init.pth'
    vit = build(MODELS, VIT)
    vit.init_weights()
    torch.save(dict(state_dict=vit.state_dict()), folder / 'init.pth')
    (folder / file).parent.mkdir(parents=True)
    config.dump(folder / file)
    return config


def units(library):
    """Unit of the training length, length of the toy run, and one of its metrics."""
    return ('iter', 2, 'mIoU') if library == 'mmseg' else ('epoch', 1, 'coco/bbox_mAP')


@pytest.mark.slow
@pytest.mark.parametrize('command', documented_commands())
def test_documented_commands_train_resume_and_test(mim, tmp_path, command):
    """Shipped config at toy size; --resume works although torch loads with weights_only."""
    _, _, library, file = command.split()
    name = Path(file).stem
    unit, last, metric = units(library)
    prepare(tmp_path, file)
    cpu = () if torch.cuda.is_available() else ('--gpus', '0')

    text = mim(tmp_path, *command.split()[1:], *cpu)
    run = tmp_path / 'work_dirs' / name
    assert "init.pth: network with names of 'cotap_mm'" in text
    assert (run / f'{unit}_{last}.pth').is_file()
    text = mim(
        tmp_path,
        *command.split()[1:],
        *cpu,
        '--resume',
        '--cfg-options',
        f'train_cfg.max_{unit}s={2 * last}',
    )
    assert 'resumed' in text and (run / f'{unit}_{2 * last}.pth').is_file()
    mim(
        tmp_path,
        'test',
        library,
        file,
        '--checkpoint',
        run / f'{unit}_{last}.pth',
        *cpu,
        '--work-dir',
        'tested',
    )
    assert metrics(tmp_path / 'tested', metric) == pytest.approx(metrics(run, metric, 0), abs=0.02)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize('command', documented_commands())
def test_two_processes_with_the_pytorch_launcher(mim, tmp_path, command):
    """The pytorch launcher of mim; without GPUs, MMEngine's part of it is replaced.

    MMEngine selects a CUDA device in each process and has no other way.
    """
    _, _, library, file = command.split()
    name = Path(file).stem
    unit, last, metric = units(library)
    config = prepare(tmp_path, file)
    if torch.cuda.device_count() < 2:
        (tmp_path / 'no_gpu.py').write_text(
            'import torch\ntorch.cuda.set_device = lambda device: None\n'
        )
        config.custom_imports.imports = ['no_gpu', *config.custom_imports.imports]
        config.env_cfg.dist_cfg = dict(backend='gloo')
        config.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
        )
        config.dump(tmp_path / file)
        text = (tmp_path / file).read_text()
        # Statistics that stay at their start: those of BN would differ between the ranks, of which
        # only rank 0 saves its own.
        (tmp_path / file).write_text(text.replace("'SyncBN'", "'BN', 'momentum': 0.0"))
    launcher = ('--launcher', 'pytorch', '--gpus', '2')

    mim(tmp_path, *command.split()[1:], *launcher)
    run = tmp_path / 'work_dirs' / name
    more = ('--resume', '--cfg-options', f'train_cfg.max_{unit}s={2 * last}')
    text = mim(tmp_path, *command.split()[1:], *launcher, *more)
    assert 'resumed' in text and (run / f'{unit}_{2 * last}.pth').is_file()
    assert re.search(r'Distributed launcher: pytorch\s+.*\s+GPU number: 2', text)
    mim(
        tmp_path,
        'test',
        library,
        file,
        '--checkpoint',
        run / f'{unit}_{last}.pth',
        *launcher,
        '--work-dir',
        'tested',
    )
    assert metrics(tmp_path / 'tested', metric) == pytest.approx(metrics(run, metric, 0), abs=0.02)


def test_the_documentation_shows_both_libraries():
    assert [command.split()[2] for command in documented_commands()] == ['mmseg', 'mmdet']
