"""Run shipped pre-training configs at toy size through the command line."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

from cotap_mm.encoders.global_encoder import GlobalEncoder
from cotap_mm.engine import ResumableTrainLoop
from tests.helpers.resume_work import Killed, plain_text
from tests.helpers.tool_loading import load_tool
from tests.helpers.toy_config import toy_options

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'cotap'
SHIPPED = sorted(path.stem for path in CONFIGS.glob('*.py') if 'renamed = ' not in path.read_text())


def make_images(folder, count=9, seed=0):
    folder.mkdir(parents=True)
    for index, pixels in enumerate(
        np.random.default_rng(seed).integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)
    ):
        Image.fromarray(pixels).resize((40, 48)).save(folder / f'{index}.png')
    return folder


def write_toy_config(folder, name, iters=4):
    """Write ``folder/NAME.py``: the shipped config with a tiny model and few iterations."""
    config = Config.fromfile(CONFIGS / f'{name}.py')
    # Nine images in four steps of two templates fill a bank of eight.
    config.merge_from_dict(toy_options(batch_size=4, iters=iters, bank_size=8))
    config.merge_from_dict(
        dict(
            optim_wrapper=dict(accumulative_counts=1),
            default_hooks=dict(logger=dict(interval=1), checkpoint=dict(interval=2)),
        )
    )
    if config.train_dataloader.dataset.patch.type == 'ToyScenes':
        config.train_dataloader.dataset.patch.update(num_images=9, image_size=32)
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
