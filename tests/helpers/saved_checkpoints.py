"""Checkpoint files, and a tiny training that saves them, for tests."""

from __future__ import annotations

import random

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner

from cotap_mm.engine.resume.checkpoints import atomic_checkpoint
from cotap_mm.engine.resume.choice import choose_resume


def content(step, size=1000):
    """Minimal content from which MMEngine can resume."""
    return dict(
        meta=dict(iter=step, epoch=0),
        message_hub={},
        state_dict=dict(values=torch.full((size,), float(step))),
    )


def save(folder, step, size=1000):
    path = folder / f'iter_{step}.pth'
    with atomic_checkpoint(path) as partial:
        torch.save(content(step, size), partial)
    return path


def flip_a_byte(path, place=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0xFF
    path.write_bytes(bytes(data))


class Line(BaseModel):
    """Model with one weight that decreases by 1 per step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.weight.sum())


def make_runner(folder, iters=10, **options):
    hook = dict(
        type='cotap_mm.AtomicCheckpointHook',
        by_epoch=False,
        **{'interval': 2, 'max_keep_ckpts': 2, **options},
    )
    return Runner(
        Line(),
        str(folder),
        train_dataloader=dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type='InfiniteSampler'),
            dataset=[dict(inputs=torch.zeros(1))] * 4,
        ),
        train_cfg=dict(by_epoch=False, max_iters=iters),
        default_hooks=dict(checkpoint=hook),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0)),
        log_level='WARNING',
        default_scope='cotap_mm',  # MMEngine's own scope would stay active in later tests
        experiment_name=f'safe_{folder.name}_{random.random()}',
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir() if 'iter_' in path.name)


def resumed(folder, **options):
    config = Config(dict(dict(work_dir=str(folder), resume=True), **options))
    choose_resume(config)
    return config
