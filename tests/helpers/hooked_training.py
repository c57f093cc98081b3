"""A short training with and without evaluations, for tests and their subprocesses."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from cotap_mm.evaluation import EvaluationHook


class NoisyModel(BaseModel):
    """Model that learns from random numbers, so a changed random state changes its weights."""

    patch_size = 4

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs, data_samples=None, mode='loss'):
        assert self.training and self.dropout.training
        return dict(loss=(self.dropout(torch.rand(3) + self.weight) ** 2).sum())

    def encode(self, images, network='student', output='filter'):
        assert not self.dropout.training
        torch.rand(7), np.random.rand(), random.random()
        patches = nn.functional.avg_pool2d(images, self.patch_size) + self.weight.view(3, 1, 1)
        return patches.mean(dim=(2, 3)), patches


def labeled(count=3):
    label = torch.arange(64).view(8, 8) % 2
    image = (label * 200).to(torch.uint8).expand(3, 8, 8)
    return [dict(image=image, label=label)] * count


def run(work_dir, hooks, iters=5):
    torch.manual_seed(0)
    model = NoisyModel()
    runner = Runner(
        model,
        str(work_dir),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.zeros(1))] * 20,
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=iters),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=hooks,
        default_hooks=dict(checkpoint=None),
        randomness=dict(seed=0),
        experiment_name=work_dir.name,
    )
    runner.train()
    return runner


def stand_in(model):
    """What an evaluation needs of a Runner."""
    return SimpleNamespace(
        model=model,
        logger=SimpleNamespace(info=print),
        visualizer=SimpleNamespace(add_scalars=lambda values, step: None),
        message_hub=SimpleNamespace(update_scalar=lambda name, value: None),
    )


def make_hook(**kwargs):
    options = dict(k=2)
    return EvaluationHook(labeled(2), 2, train=labeled(), interval=2, options=options, **kwargs)


def trained_weights(rank):
    """Weights of one rank, without and with evaluations."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        return [
            run(Path(folder) / f'{name}{rank}', hooks).model.weight.detach()
            for name, hooks in (('plain', []), ('measured', [make_hook()]))
        ]


def results_of_outputs(rank):
    """Values of two evaluations of three outputs; some images do not fit into the memory."""
    from cotap_mm.evaluation.data import kept_samples
    from tests.helpers.pixel_scenes import noise_scenes
    from tests.helpers.tiny import build_tiny

    torch.manual_seed(0)  # same weights on both ranks
    model = build_tiny()
    with torch.no_grad():
        model.backbone.cls_token.add_(1)
    hook = EvaluationHook(
        noise_scenes(3, 32, 2),
        2,
        train=noise_scenes(5, 32, 2, seed=1),
        measure=[('student', 'backbone'), ('student', 'filter'), ('teacher', 'filter')],
        options=dict(k=3, memory_size=40),
    )
    for dataset in (hook.data.train, hook.data.val):
        assert isinstance(dataset, kept_samples.KeptSamples)
        dataset._free = 4 * 32**2  # one image and its label
    values = [value for step in range(2) for value in hook.evaluate(stand_in(model), step).values()]
    return torch.tensor(values).double()
