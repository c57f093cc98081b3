"""Run shipped pre-training configs at toy size through the command line."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image

from cotap_mm.encoders.global_encoder import GlobalEncoder
from cotap_mm.engine import ResumableTrainLoop
from cotap_mm.registry import MODELS, build
from tests.helpers.resume_work import Killed, plain_text
from tests.helpers.tool_loading import load_tool

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'cotap'
SHIPPED = sorted(path.stem for path in CONFIGS.glob('*.py') if 'renamed = ' not in path.read_text())
ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16)


def make_images(folder, count=9, seed=0):
    folder.mkdir(parents=True)
    for index, pixels in enumerate(
        np.random.default_rng(seed).integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)
    ):
        Image.fromarray(pixels).resize((40, 48)).save(folder / f'{index}.png')
    return folder


def make_init(path, seed=5):
    torch.manual_seed(seed)
    backbone = build(MODELS, dict(type='DINOViT', arch=ARCH, img_size=32, patch_size=8))
    backbone.init_weights()
    torch.save(
        dict(
            state_dict={f'backbone.{name}': value for name, value in backbone.state_dict().items()}
        ),
        path,
    )
    return path


def write_toy_config(folder, name, iters=4):
    """Write ``folder/NAME.py``: the shipped config with a tiny model and few iterations."""
    config = Config.fromfile(CONFIGS / f'{name}.py')
    head = dict(hidden_channels=8, out_channels=8, num_clusters=4)
    config.model.backbone.pop('arch')
    config.merge_from_dict(
        dict(
            model=dict(
                backbone=dict(arch=ARCH, img_size=32, patch_size=8),
                neck=dict(num_prototypes=2),
                head=dict(patch=head, cls=head),
                memory=dict(
                    patch_queue=dict(size=64, per_step=8),
                    cls_queue=dict(size=16, per_step=4),
                    template_bank=dict(size=8, per_step=2),
                ),
                pairs=dict(pool_sizes=(2, 4), topk=2, num_negatives=1),
            ),
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                dataset=dict(num_neighbors=2, crops=dict(global_size=32, local_size=16)),
            ),
            optim_wrapper=dict(accumulative_counts=1),
            train_cfg=dict(max_iters=iters),
            default_hooks=dict(logger=dict(interval=1), checkpoint=dict(interval=2)),
        )
    )
    if config.train_dataloader.dataset.patch.type == 'ToyScenes':
        config.train_dataloader.dataset.patch.update(num_images=9, image_size=32)
    config.train_dataloader.persistent_workers = False
    config.custom_hooks = [
        hook for hook in config.get('custom_hooks', []) if hook['type'] != 'EvaluationHook'
    ]  # its labels are not available
    config.experiment_name = uuid.uuid4().hex  # MMEngine keeps its log of a name
    (folder / f'{name}.py').write_text(plain_text(config))
    return folder / f'{name}.py'


def arguments(folder, name):
    """Arguments that train a shipped config on a folder of images, from a checkpoint."""
    options = [str(folder / f'{name}.py'), '--init', str(folder / 'init.pth')]
    if name != 'demo':
        options += ['--images', str(folder / 'images')]
    return [*options, '--cls-images', str(folder / 'cls')] if 'in1k' in name else options


def run(words, kill_at=None, may_compute=True):
    """Run ``tools/train.py``; kill it before iteration ``kill_at``, if set."""
    step, make = ResumableTrainLoop.run_iter, GlobalEncoder.__init__

    def run_iter(self, data_batch):
        if self._iter == kill_at:
            raise Killed
        step(self, data_batch)

    def refuse(self, *_, **__):
        raise AssertionError('neighbors are computed again')

    try:
        ResumableTrainLoop.run_iter = run_iter
        if not may_compute:
            GlobalEncoder.__init__ = refuse
        load_tool('train').main(list(map(str, words)))
    except Killed:
        assert kill_at is not None
    finally:
        ResumableTrainLoop.run_iter, GlobalEncoder.__init__ = step, make
