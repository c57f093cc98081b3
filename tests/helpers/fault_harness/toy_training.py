"""Training of the harness: a tiny config, twelve images, and an init checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image

from cotap_mm.datasets.sources.files import ImageList
from cotap_mm.datasets.sources.packed import pack_images
from cotap_mm.registry import MODELS, build

ROOT = Path(__file__).resolve().parents[3]
ITERS = 6
INTERVAL = 2  # iterations between checkpoints
BACKBONE = dict(
    arch=dict(_delete_=True, embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16),
    img_size=32,
    patch_size=8,
)
#: Input files of a training, in the folder of a case.
IMAGES, PACKED, INIT, CONFIG, WORK = 'images', 'images.lmdb', 'init.pth', 'tiny.py', 'run'


def write_inputs(folder: Path) -> None:
    """Write images, the same images packed, an init checkpoint and a config.

    Args:
        folder (Path): Folder for them; it is created.
    """
    (folder / IMAGES).mkdir(parents=True)
    draw = np.random.default_rng(0)
    for index in range(12):
        pixels = draw.integers(0, 256, (5, 6, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        suffix = 'png' if index % 2 else 'jpg'
        Image.fromarray(pixels).save(folder / IMAGES / f'{index:02d}.{suffix}')
    pack_images(ImageList(folder / IMAGES), folder / PACKED)
    print()  # after its progress bar
    config = _config()
    config.dump(folder / CONFIG)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)  # with random weights, an interrupted neighbor build would start over
        network = build(MODELS, config.model.backbone)
    torch.save(
        dict(
            state_dict={f'backbone.{name}': value for name, value in network.state_dict().items()}
        ),
        folder / INIT,
    )


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
    head = dict(hidden_channels=8, out_channels=8, num_clusters=4)
    config.merge_from_dict(
        dict(
            model=dict(
                backbone=BACKBONE,
                neck=dict(num_prototypes=2),
                head=dict(patch=head, cls=head),
                memory=dict(
                    patch_queue=dict(size=64, per_step=8),
                    cls_queue=dict(size=16, per_step=4),
                    template_bank=dict(size=12, per_step=2),
                ),
                pairs=dict(pool_sizes=(2, 4), topk=2, num_negatives=1),
            ),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                persistent_workers=False,
                dataset=dict(num_neighbors=3, crops=dict(global_size=32, local_size=16)),
            ),
            optim_wrapper=dict(accumulative_counts=1),
            train_cfg=dict(max_iters=ITERS),
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
