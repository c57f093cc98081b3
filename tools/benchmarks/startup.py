"""Processes that start, up to the first step of a training."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

#: Runs ``cotap train`` with the arguments from the second on, after importing the package that the
#: first one names, if any; prints the modules that are imported when the first step has its batch.
TRAIN = """
import json, os, sys
from cotap_mm.cli import train
from cotap_mm.compat.import_hooks import after_import

def stop(self, data_batch):
    print('MODULES', json.dumps(sorted(sys.modules)), flush=True)
    os._exit(0)

def change(module):
    module.ResumableTrainLoop.run_iter = stop

after_import('cotap_mm.engine.resume.train_loop', change)
if sys.argv[1]:
    __import__(sys.argv[1])
train.main(sys.argv[2:])
"""

#: What PyTorch, MMEngine and MMPretrain need by themselves: their imports, a Runner with the same
#: log writers, and two ViT-S, up to the first batch.
BARE = """
import os, sys
import mmpretrain.models, torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

class TwoViTs(BaseModel):
    def __init__(self):
        super().__init__()
        vit = dict(type='VisionTransformer', arch='deit-small', patch_size=16, img_size=224)
        self.student, self.teacher = MODELS.build(dict(vit)), MODELS.build(dict(vit))

    def forward(self, *data, mode='loss'):
        os._exit(0)

data = dict(dataset=[torch.zeros(3, 8, 8)] * 8, sampler=dict(type='InfiniteSampler'))
Runner(
    TwoViTs(),
    sys.argv[1],
    train_dataloader=dict(data, batch_size=2, num_workers=0),
    train_cfg=dict(by_epoch=False, max_iters=1),
    optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
    visualizer=dict(
        type='Visualizer',
        vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')],
    ),
).train()
"""


def run_code(code: str, *words: str, folder: Path | None = None) -> str:
    """Run Python code in a fresh process, which gets ``words`` as arguments.

    Returns:
        str: What it printed.

    Raises:
        RuntimeError: If it failed.
    """
    return run_python(['-c', code, *words], folder)


def run_python(words: Sequence[str], folder: Path | None = None) -> str:
    """Run Python with arguments in a fresh process; see :func:`run_code`."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise RuntimeError(f'python {words[0]} ended with {done.returncode}: {done.stderr[-2000:]}')
    return done.stdout


def time_of_children() -> float:
    """CPU seconds of all processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
