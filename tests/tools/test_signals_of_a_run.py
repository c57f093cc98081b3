"""SIGTERM makes tools/train.py exit with status 75, whatever it is doing."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from cotap_mm.datasets import ToyScenes
from cotap_mm.datasets.sources.files import UnreachableImage
from cotap_mm.evaluation import EvaluationHook
from cotap_mm.registry import DATASETS, HOOKS
from tests.helpers import resume_work
from tests.helpers.tool_loading import load_tool

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120  # seconds; it takes one or two on an idle machine
REPORT = []  # pipe through which a forked command reports that it waits

pytestmark = pytest.mark.skipif(
    not hasattr(os, 'fork') or torch.cuda.is_available(),
    reason='forks trainings, which is possible on Linux and macOS and without CUDA',
)


def report():
    os.write(REPORT[0], b'waiting\n')


@DATASETS.register_module(force=True)
class HangingScenes(ToyScenes):
    """Images whose reading never finishes while neighbors are computed."""

    def read(self, index, enough=None):
        if 'MultiCrop' not in str(enough):
            report()
            time.sleep(600)
        return super().read(index, enough)


@DATASETS.register_module(force=True)
class VanishingScenes(ToyScenes):
    """Images on a disk that becomes unavailable in the fourth iteration."""

    count = 0

    def read(self, index, enough=None):
        if 'MultiCrop' in str(enough):
            type(self).count += 1
            if self.count > 33:
                report()
                raise UnreachableImage('the disk has gone')
        return super().read(index, enough)

    def is_reachable(self):
        return self.count <= 33


@HOOKS.register_module(force=True)
class HangingEvaluation(EvaluationHook):
    """An evaluation that never finishes."""

    def __init__(self, at):
        super().__init__([], 2, [], interval=1)
        self.at = at

    def evaluate(self, runner, step):
        if step == self.at:
            report()
            time.sleep(600)


def full_disk(*arguments, **options):
    report()
    raise OSError(errno.ENOSPC, 'No space left on device')


def scenes(kind, num_workers=0):
    return dict(num_workers=num_workers, **{'train_dataloader.dataset.patch.type': kind})


def hook(at):
    return dict(hooks=[dict(type='HangingEvaluation', at=at)])


#: Phase -> options of the config, checkpoints afterwards, expected output.
PHASES = {
    'computing neighbors': (scenes('HangingScenes'), [], 'Nothing had to be saved'),
    'computing neighbors in a worker': (scenes('HangingScenes', 1), [], 'Nothing had to be saved'),
    'first evaluation': (
        hook(0),
        [],
        'No checkpoint has been saved yet; start again',
    ),
    'evaluation': (hook(3), ['iter_2.pth', 'iter_3.pth'], 'saving iteration 3 and stopping'),
    'images out of reach': (
        scenes('VanishingScenes'),
        ['iter_2.pth', 'iter_3.pth'],
        'saving iteration 3 and stopping',
    ),
    'images out of reach of a worker': (
        scenes('VanishingScenes', 1),
        ['iter_2.pth', 'iter_3.pth'],
        'the disk has gone',
    ),
    'disk full at the end': (
        dict(checkpoint_interval=100),
        [],
        'iteration 4 could not be written .* free disk space',
    ),
}


def command(config, output):
    """Run tools/train.py in a forked process, with a process group of its own."""
    status = 99
    try:
        os.setpgid(0, 0)
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = sys.stderr = os.fdopen(handle, 'w', buffering=1)
        load_tool('train').main([str(config), '--work-dir', str(config.parent / 'run')])
        status = 0
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def status_of(pid):
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 'hangs'


def signaled(tmp_path, monkeypatch, phase, stop):
    """Train until a phase waits, and call ``stop(pid)``.

    Returns:
        tuple: Exit status, names of checkpoints, output.
    """
    options = PHASES[phase][0]
    monkeypatch.setattr(Config, 'pretty_text', property(lambda self: repr(self._cfg_dict)))
    if phase.startswith('disk'):
        monkeypatch.setattr(Runner, 'save_checkpoint', full_disk)
    config = resume_work.tiny_config(tmp_path / 'run', 4, **options)
    (tmp_path / 'tiny.json').write_text(json.dumps(config._cfg_dict.to_dict()))
    read, write = os.pipe()
    REPORT[:] = [write]
    pid = os.fork()
    if pid == 0:
        command(tmp_path / 'tiny.json', tmp_path / 'output')
    os.close(write)
    with os.fdopen(read) as file:
        heard = file.readline()
        time.sleep(0.3)
        stop(pid)
        status = status_of(pid)
    output = (tmp_path / 'output').read_text()
    assert heard == 'waiting\n', output[-3000:]
    assert 'Traceback' not in output, output[-3000:]
    return status, sorted(path.name for path in (tmp_path / 'run').glob('*.pth')), output


@pytest.mark.slow
@pytest.mark.parametrize('phase', PHASES)
def test_signal_in_each_phase(tmp_path, monkeypatch, phase):
    _, checkpoints, said = PHASES[phase]
    status, found, output = signaled(
        tmp_path, monkeypatch, phase, lambda pid: os.kill(pid, signal.SIGTERM)
    )
    assert status == 75, output[-3000:]
    # A worker prefetches, so the training may be one iteration behind it.
    assert found == checkpoints or checkpoints and 'worker' in phase and found == checkpoints[:1]
    assert re.search(said, output), output[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    'phase, saved',
    [
        ('computing neighbors in a worker', ''),
        ('first evaluation', ''),
        ('evaluation', 'iter_3.pth'),
        ('images out of reach of a worker', 'iter_[23].pth'),
    ],
)
def test_ctrl_c_in_a_phase(tmp_path, monkeypatch, phase, saved):
    """The terminal sends SIGINT to all processes of the group, also to the loader's workers."""
    status, found, output = signaled(
        tmp_path, monkeypatch, phase, lambda pid: os.killpg(pid, signal.SIGINT)
    )
    assert status == 130 and 'KeyboardInterrupt' not in output, output[-3000:]
    sentence = output.splitlines()[-1]
    if not saved:
        assert not found and sentence.endswith('start again with the same command')
        return
    assert re.fullmatch(
        rf'interrupted. The last checkpoint is {tmp_path}/run/{saved}, and --resume continues from '
        rf'it: (cotap|python -m cotap_mm) train {tmp_path}/tiny.json --work-dir {tmp_path}/run '
        '--resume',
        sentence,
    ), output[-3000:]
    assert re.fullmatch(saved, found[-1])


# A valid command line of each tool; {out} does not exist yet.
COMMANDS = {
    'benchmark': 'loss',
    'build_neighbors': '--images images --out {out}.npy',
    'convert': 'checkpoint {out}',
    'demo': '--work-dir {out}',
    'evaluate': 'checkpoint --protocol knn --data toy --out {out}',
    'pack_dataset': '--images images --out {out}',
    'publish': 'checkpoint {out}.pth --license MIT',
    'test': 'config checkpoint --work-dir {out}',
    'train': 'config --work-dir {out}',
    'viewer': 'checkpoint --images images --port 0',
    'visualize': 'checkpoint --images images --out {out}',
}
# A package whose import takes long, and which notices every exception meanwhile.
SLOW_PACKAGE = """
import sys, time

try:
    print('importing', flush=True)
    for _ in range(3000):  # a signal just before a long sleep would not interrupt it
        time.sleep(0.1)
except BaseException:
    print('an exception interrupted the import', file=sys.stderr)
    raise
"""


@pytest.mark.parametrize(
    'package',
    ['difflib', 'torch'],
    ids=['before the command line is parsed', 'after it'],
)
@pytest.mark.parametrize('name', COMMANDS)
def test_signal_during_imports(tmp_path, name, package):
    (tmp_path / 'packages').mkdir()
    (tmp_path / 'packages' / f'{package}.py').write_text(SLOW_PACKAGE)
    path = os.pathsep.join([str(tmp_path / 'packages'), os.environ.get('PYTHONPATH', '')])
    words = COMMANDS[name].format(out=tmp_path / 'out').split()
    process = subprocess.Popen(
        [sys.executable, '-B', str(ROOT / 'tools' / f'{name}.py'), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=path),
    )
    try:
        assert process.stdout.readline() == 'importing\n', process.communicate()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 75 and said.count('\n') == 1, said
    assert 'Nothing had to be saved; start again with the same command' in said
    assert [path.name for path in tmp_path.iterdir()] == ['packages']
