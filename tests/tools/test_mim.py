"""``mim train`` and ``mim test`` run our configs in a separate environment.

openmim pins old packages, so it is not installed beside everything else: a virtual environment
gets it, and sees the packages of this one behind its own. The first documented command starts it as
a user does; the others start as tests/helpers/warm_python.py does, which saves most of the minutes.
What is imported there before is none of our, MMSegmentation's or MMDetection's modules.
"""

from __future__ import annotations

import os
import re
import shutil
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
from tests.helpers.warm_python import served_by

#: What a training of MMSegmentation or MMDetection imports, but for OpenMMLab's registries.
LIBRARIES = [
    'matplotlib.pyplot',
    'mmcv.ops',
    'mmengine.runner',
    'pandas',
    'pycocotools.coco',
    'scipy.optimize',
    'sklearn.gaussian_process',
    'timm.models',
    'torch.distributed.launch',
    'torch.utils.tensorboard',
    'torchvision',
    'transformers.models.bert.modeling_bert',
]


@pytest.fixture(scope='module')
def mim(tmp_path_factory):
    """Function that runs mim in a folder, with a Python that starts at once or ``is_cold``."""
    top = tmp_path_factory.mktemp('mim')
    uv = shutil.which('uv', path=f'{sysconfig.get_path("scripts")}{os.pathsep}{os.environ["PATH"]}')
    venv.create(top, with_pip=not uv)
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
    # mim imports pkg_resources and runs pip.
    installer = [uv, 'pip', 'install', '-q', '--python', python, 'pip', 'setuptools<81']
    installed = subprocess.run(
        [*(installer if uv else [python, '-m', 'pip', 'install', '-q']), 'openmim'],
        capture_output=True,
        text=True,
    )
    assert (top / 'bin' / 'mim').is_file(), installed.stderr[-2000:]

    script = top / 'bin' / 'mim'

    def run(folder, *arguments, is_cold=False):
        environment = dict(os.environ, PYTHONPATH=str(folder), OMP_NUM_THREADS='1')
        environment['PATH'] = f'{top / "bin"}{os.pathsep}{environment["PATH"]}'
        done = subprocess.run(
            [*([] if is_cold else [warm]), script, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
        )
        text = done.stdout + done.stderr
        assert done.returncode == 0 and 'Traceback' not in text, text[-3000:]
        return text

    with served_by(python, top, *LIBRARIES) as warm:
        yield run


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


def replace_cuda(folder, file, config):
    """Let the pytorch launcher of mim train on CPUs, in a copy of the config; return its path.

    MMEngine's part of it selects a CUDA device in each process, and has no other way.
    """
    (folder / 'no_gpu.py').write_text('import torch\ntorch.cuda.set_device = lambda device: None\n')
    config.custom_imports.imports = ['no_gpu', *config.custom_imports.imports]
    config.env_cfg.dist_cfg = dict(backend='gloo')
    config.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
    )
    path = folder / 'two_processes' / Path(file).name
    path.parent.mkdir()
    config.dump(path)
    # Statistics that stay as they are: those of BN would differ between the ranks, of which only
    # rank 0 saves its own.
    path.write_text(path.read_text().replace("'SyncBN'", "'BN', 'momentum': 0.0"))
    return path


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize('command', documented_commands())
def test_documented_commands_train_resume_and_test(mim, tmp_path, command):
    """Shipped config at toy size, in one process and then in two with the pytorch launcher.

    --resume works although torch loads with weights_only.
    """
    _, _, library, file = command.split()
    name = Path(file).stem
    unit, length, metric = units(library)
    config = prepare(tmp_path, file)
    cpu = () if torch.cuda.is_available() else ('--gpus', '0')
    run = tmp_path / 'work_dirs' / name

    def resume(path, trained, *launcher):
        """Train on, to the length ``trained``; return the output of mim."""
        options = ('--resume', '--cfg-options', f'train_cfg.max_{unit}s={trained}')
        text = mim(tmp_path, 'train', library, path, *launcher, *options)
        assert 'resumed' in text and (run / f'{unit}_{trained}.pth').is_file()
        return text

    def check_scores(path, trained, validation, *launcher):
        """``mim test`` of a checkpoint gives the scores of a validation while training."""
        checkpoint = ('--checkpoint', run / f'{unit}_{trained}.pth')
        folder = f'tested_{trained}'
        mim(tmp_path, 'test', library, path, *checkpoint, *launcher, '--work-dir', folder)
        expected = metrics(run, metric, validation)
        assert metrics(tmp_path / folder, metric) == pytest.approx(expected, abs=0.02)

    text = mim(tmp_path, *command.split()[1:], *cpu, is_cold=library == 'mmseg')
    assert "init.pth: network with names of 'cotap_mm'" in text
    assert (run / f'{unit}_{length}.pth').is_file()
    resume(file, 2 * length, *cpu)
    check_scores(file, length, 0, *cpu)

    path = file if torch.cuda.device_count() > 1 else replace_cuda(tmp_path, file, config)
    launcher = ('--launcher', 'pytorch', '--gpus', '2')
    text = resume(path, 3 * length, *launcher)
    assert re.search(r'Distributed launcher: pytorch\s+.*\s+GPU number: 2', text)
    check_scores(path, 3 * length, -1, *launcher)


def test_the_documentation_shows_both_libraries():
    assert [command.split()[2] for command in documented_commands()] == ['mmseg', 'mmdet']
