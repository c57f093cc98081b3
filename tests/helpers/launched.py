"""Run trainings of two CPU processes with the launchers, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.helpers import resume_work

ROOT = Path(__file__).resolve().parents[2]
DIST_TRAIN = ['bash', str(ROOT / 'tools' / 'dist_train.sh')]
#: Parts of checkpoints that must be equal for two runs to be the same.
KEPT = ('state_dict', 'optimizer', 'param_schedulers', 'run_state')

HOOKS = '''
"""Hooks that kill, stop or inspect the processes of a test."""
import os
import signal
import time
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from cotap_mm.registry import HOOKS

HERE = Path(__file__).parent


@HOOKS.register_module()
class DieOnceHook(Hook):
    """Kill rank 1 in an iteration, once."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        mark = HERE / 'has_died'
        if get_rank() == 1 and runner.iter == 5 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class WaitHook(Hook):
    """Report an iteration and slow it down, so that signals arrive within it."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 3:
            (HERE / f'rank{get_rank()}_at_3').write_text(str(os.getpid()))
            end = time.monotonic() + 3
            while time.monotonic() < end:  # a signal would cut one long sleep short
                time.sleep(0.1)


@HOOKS.register_module()
class StallHook(Hook):
    """Make rank 1 hang in an iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if get_rank() == 1 and runner.iter == 3:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # else torchrun kills it after 30 s
            time.sleep(600)


@HOOKS.register_module()
class DumpHook(Hook):
    """Save the weights of each rank, since only rank 0 writes checkpoints."""

    def after_train(self, runner):
        torch.save({name: value.detach() for name, value in runner.model.module.named_parameters()},
                   HERE / f'rank{get_rank()}.pth')
'''


def write_config(folder, iters=8, hooks=(), **options):
    """Write a tiny training on toy scenes to ``folder/tiny.py``, with hooks of :data:`HOOKS`."""
    (folder / 'test_hooks.py').write_text(HOOKS)
    config = resume_work.tiny_config(
        folder / 'run',
        iters,
        batch_size=2,
        hooks=[dict(type='PreemptionHook'), *(dict(type=name) for name in hooks)],
        **options,
    )
    config.custom_imports = dict(imports=['test_hooks'], allow_failed_imports=False)
    config.dump(folder / 'tiny.py')
    return folder / 'tiny.py'


def environment(folder, **variables):
    """Environment of a launcher: modules of the repository and ``folder``, one thread."""
    told = ('TORCHELASTIC', 'PET_', 'SLURM', 'GLOO', 'NNODES', 'NODE_RANK', 'MASTER')
    kept = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    kept.update(
        PYTHON=sys.executable,
        OMP_NUM_THREADS='1',
        CUDA_VISIBLE_DEVICES='',
        PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]),
        COTAP_DIST_TIMEOUT='120',
    )  # processes that outlive a failed test exit
    return dict(kept, **variables)


def run(command, folder, **variables):
    """Run a launcher until it exits; return the completed process with its output."""
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, **variables),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )


def checkpoint(folder, step):
    """Parts of ``folder/run/iter_STEP.pth`` that must be equal in equal runs."""
    everything = torch.load(folder / 'run' / f'iter_{step}.pth', weights_only=True)
    return {key: everything[key] for key in KEPT}
