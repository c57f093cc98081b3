"""Pre-training at toy size: options for a shipped config, and images and weights for it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from cotap_mm.registry import MODELS, build

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16)


def toy_options(batch_size, iters, num_neighbors=2, bank_size=12, num_workers=0):
    """Options that shrink a config to a few thousand parameters and 32 px."""
    head = dict(hidden_channels=8, out_channels=8, num_clusters=4)
    return dict(
        model=dict(
            backbone=dict(arch=dict(ARCH, _delete_=True), img_size=32, patch_size=8),
            neck=dict(num_prototypes=2),
            head=dict(patch=head, cls=head),
            memory=dict(
                patch_queue=dict(size=64, per_step=8),
                cls_queue=dict(size=16, per_step=4),
                template_bank=dict(size=bank_size, per_step=2),
            ),
            pairs=dict(pool_sizes=(2, 4), topk=2, num_negatives=1),
        ),
        train_dataloader=dict(
            batch_size=batch_size,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            dataset=dict(num_neighbors=num_neighbors, crops=dict(global_size=32, local_size=16)),
        ),
        train_cfg=dict(max_iters=iters),
    )


def as_text(options):
    """Text of a config file that sets options."""
    return ''.join(f'{key} = {value!r}\n' for key, value in options.items())


def write_noise(path, rng, size=(32, 32), block=1):
    """Write an image of ``size`` (height, width) in random colors; one per square of ``block``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (*(side // block for side in size), 3), dtype=np.uint8)
    Image.fromarray(pixels.repeat(block, 0).repeat(block, 1)).save(path)


def write_init(path, seed=5):
    """Write random weights of the toy backbone; the random state stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build(MODELS, dict(type='DINOViT', arch=ARCH, img_size=32, patch_size=8))
        backbone.init_weights()
    weights = {f'backbone.{name}': value for name, value in backbone.state_dict().items()}
    torch.save(dict(state_dict=weights), path)
    return path
