"""``mim train`` and ``mim test`` run our configs, in an environment of their own.

openmim pins old packages, so it is not installed beside everything else: a virtual environment
gets it, and sees the packages of this one behind its own.
"""
import os
import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
import torch
from downstream.fake_data import write_for
from downstream.test_training import ROOT, VIT, metrics, shrink
from mmengine.config import Config

from cotap_mm.registry import MODELS, build


@pytest.fixture(scope='module')
def mim(tmp_path_factory):
    """Run mim with some arguments in a folder."""
    top = tmp_path_factory.mktemp('mim')
    venv.create(top, with_pip=True)
    python = top / 'bin' / 'python'
    site = subprocess.run(
        [python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'],
        capture_output=True, text=True, check=True).stdout.strip()
    (Path(site) / 'behind.pth').write_text(
        f'{sysconfig.get_path("purelib")}\n{Path(__file__).resolve().parents[2]}\n')
    installed = subprocess.run([python, '-m', 'pip', 'install', '-q', 'openmim'],
                               capture_output=True, text=True)
    assert (top / 'bin' / 'mim').is_file(), installed.stderr[-2000:]

    def run(folder, *arguments):
        environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
        environment.update(PATH=f'{top / "bin"}{os.pathsep}{os.environ["PATH"]}',
                           OMP_NUM_THREADS='1')
        done = subprocess.run([top / 'bin' / 'mim', *map(str, arguments)], capture_output=True,
                              text=True, cwd=folder, env=environment)
        text = done.stdout + done.stderr
        assert done.returncode == 0 and 'Traceback' not in text, text[-3000:]
        return text

    return run


def readme_commands():
    """The lines of the README that start mim."""
    return re.findall(r'^(mim train .*\.py)$', (ROOT / 'README.md').read_text(), re.M)


@pytest.mark.slow
@pytest.mark.parametrize('command', readme_commands())
def test_readme_commands_train_resume_and_test(mim, tmp_path, command):
    """The shipped config at toy size; --resume works although torch loads safely."""
    _, _, library, file = command.split()
    name = Path(file).stem
    unit, last, metric = ('iter', 2, 'mIoU') if library == 'mmseg' else (
        'epoch', 1, 'coco/bbox_mAP')
    write_for(name, tmp_path)
    config = shrink(Config.fromfile(ROOT / file))
    config.model.backbone.init_cfg.checkpoint = 'init.pth'
    (tmp_path / file).parent.mkdir(parents=True)
    config.dump(tmp_path / file)
    vit = build(MODELS, VIT)
    vit.init_weights()
    torch.save(dict(state_dict=vit.state_dict()), tmp_path / 'init.pth')
    cpu = () if torch.cuda.is_available() else ('--gpus', '0')

    text = mim(tmp_path, *command.split()[1:], *cpu)
    run = tmp_path / 'work_dirs' / name
    assert "init.pth: network with names of 'cotap_mm'" in text
    assert (run / f'{unit}_{last}.pth').is_file()
    text = mim(tmp_path, *command.split()[1:], *cpu, '--resume', '--cfg-options',
               f'train_cfg.max_{unit}s={2 * last}')
    assert 'resumed' in text and (run / f'{unit}_{2 * last}.pth').is_file()
    mim(tmp_path, 'test', library, file, '--checkpoint', run / f'{unit}_{last}.pth', *cpu,
        '--work-dir', 'tested')
    assert metrics(tmp_path / 'tested', metric) == pytest.approx(metrics(run, metric, 0), abs=0.02)


def test_the_readme_shows_both_libraries():
    assert [command.split()[2] for command in readme_commands()] == ['mmseg', 'mmdet']
