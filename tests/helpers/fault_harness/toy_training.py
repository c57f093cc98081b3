"""Training of the harness: a tiny config, twelve images, and an init checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from mmengine.config import Config

from cotap_mm.datasets.sources.files import ImageList
from cotap_mm.datasets.sources.packed import pack_images
from tests.helpers.toy_config import toy_options, write_init, write_noise

ROOT = Path(__file__).resolve().parents[3]
ITERS = 6
INTERVAL = 2  # iterations between checkpoints
#: Input files of a training, in the folder of a case.
IMAGES, PACKED, INIT, CONFIG, WORK = 'images', 'images.lmdb', 'init.pth', 'tiny.py', 'run'


def write_inputs(folder: Path) -> None:
    """Write images, the same images packed, an init checkpoint and a config.

    Args:
        folder (Path): Folder for them; it is created.
    """
    draw = np.random.default_rng(0)
    for index in range(12):
        suffix = 'png' if index % 2 else 'jpg'
        write_noise(folder / IMAGES / f'{index:02d}.{suffix}', draw, (40, 48), block=8)
    pack_images(ImageList(folder / IMAGES), folder / PACKED)
    print()  # after its progress bar
    _config().dump(folder / CONFIG)
    # With random weights, an interrupted neighbor build would start over.
    write_init(folder / INIT, seed=7)


def copy_inputs(source: Path, folder: Path) -> None:
    """Copy the inputs for a case, with their modification times."""
    folder.mkdir(parents=True)
    shutil.copytree(source / IMAGES, folder / IMAGES)
    for name in (PACKED, INIT, CONFIG):
        shutil.copy2(source / name, folder / name)


def command_line(folder: Path, packed: bool, workers: int, resume: bool) -> list[str]:
    """Arguments of tools/train.py; no neighbor file is given, so that it is built."""
    line = [
        str(folder / CONFIG),
        '--images',
        str(folder / (PACKED if packed else IMAGES)),
        '--init',
        str(folder / INIT),
        '--work-dir',
        str(folder / WORK),
    ]
    if workers:
        line += [
            '--cfg-options',
            f'train_dataloader.num_workers={workers}',
            'train_dataloader.persistent_workers=True',
        ]
    return [*line, '--resume'] if resume else line


def _config() -> Config:
    """Config vits_folder.py with a network of a few thousand parameters and an evaluation."""
    config = Config.fromfile(ROOT / 'configs' / 'cotap' / 'vits_folder.py')
    config.merge_from_dict(toy_options(batch_size=2, iters=ITERS, num_neighbors=3))
    config.merge_from_dict(
        dict(
            optim_wrapper=dict(accumulative_counts=1),
            default_hooks=dict(
                logger=dict(interval=1),
                checkpoint=dict(interval=INTERVAL, retry_interval=1, final_wait=1.5),
            ),
        )
    )
    scenes = dict(type='ToyScenes', image_size=32)
    config.custom_hooks = [
        *config.get('custom_hooks', []),
        dict(
            type='EvaluationHook',
            interval=3,
            num_classes=9,
            train=dict(scenes, split='memory', num_images=3),
            val=dict(scenes, split='val', num_images=2),
            options=dict(k=2),
        ),
    ]
    return config
