"""Tokens of labeled images, and how much of each patch objects cover."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import over_dispersion
import torch
from torch import Tensor

from cotap_mm.datasets.sources.decoding import read_image
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.evaluation.batches import iter_batches
from cotap_mm.evaluation.data.labeled_set import LabeledSet
from cotap_mm.evaluation.data.load import load_data
from cotap_mm.evaluation.data.subset import Subset
from cotap_mm.evaluation.metrics import pixel_counts

DATA = ('toy', 'camvid', 'raccoon')
#: Height and width to which the images are resized, rounded to whole patches.
_SIZES = dict(toy=(96, 96), camvid=(184, 240), raccoon=(184, 240))


class LabeledPatches(NamedTuple):
    """Patches of B images.

    Attributes:
        entering (Tensor): Tokens entering the last block, (B, T, d).
        grid (tuple[int, int]): H, W.
        objects (Tensor): Number of pixels of objects in each patch, float64, (B, N).
        known (Tensor): Number of labeled pixels in each patch, float64, (B, N).
    """

    entering: Tensor
    grid: tuple[int, int]
    objects: Tensor
    known: Tensor


class BoxImages:
    """Images with the union of their boxes as class 1, and class 0 elsewhere.

    Args:
        root (Path): Folder with ``images`` and the file.
        name (str): A COCO file of boxes.

    Raises:
        ValueError: If the file does not have the form of COCO's.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.images = root / 'images'
        try:
            found = json.loads((root / name).read_text(encoding='utf-8'))
            self.names = [(each['id'], each['file_name']) for each in found['images']]
            self.boxes: dict[Any, list[Sequence[float]]] = defaultdict(list)
            for each in found['annotations']:
                left, top, width, height = each['bbox']
                self.boxes[each['image_id']].append((left, top, left + width, top + height))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{root / name} must have images and annotations with a bbox, as in COCO '
                f'({type(error).__name__}: {error}); give another folder'
            ) from error

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return the image (3, H, W) and its labels (H, W)."""
        key, name = self.names[index]
        image = torch.from_numpy(read_image(self.images / name).copy()).movedim(2, 0)
        label = torch.zeros(image.shape[1:], dtype=torch.long)
        for box in self.boxes[key]:
            left, top, right, bottom = (max(0, round(side)) for side in box)
            label[top:bottom, left:right] = 1
        return dict(image=image, label=label)


def check_raccoon(root: str) -> None:
    """Check that the images with boxes exist before anything is computed.

    Raises:
        FileNotFoundError: If the folder or a file is missing.
    """
    for name in ('images', 'train.json', 'val.json'):
        if not (Path(root) / name).exists():
            raise FileNotFoundError(
                f'--raccoon {root} must be a folder with images, train.json and val.json, and has '
                f'no {name}; give another folder'
            )


def check_folders(data: Sequence[str], camvid: str, raccoon: str) -> None:
    """Check the folders of the chosen data.

    Raises:
        FileNotFoundError: If one is missing.
    """
    if 'camvid' in data:
        over_dispersion.check_camvid(camvid)
    if 'raccoon' in data:
        check_raccoon(raccoon)


def read_patches(encoder: Encoder, data: str, root: str, part: str, limit: int) -> LabeledPatches:
    """Encode the images of one part of the data.

    Objects are the shapes of toy scenes; cars, pedestrians, bicyclists, signs and poles in CamVid;
    and boxes of raccoons.

    Args:
        encoder (Encoder): Of a network with ``forward_entering``.
        data (str): One of :data:`DATA`.
        root (str): Folder of the data.
        part (str): ``'train'`` or ``'val'``.
        limit (int): Largest number of images, evenly spaced.

    Returns:
        LabeledPatches: Their patches.
    """
    images: Any
    if data == 'raccoon':
        images, count, objects = BoxImages(Path(root), f'{part}.json'), 2, [1]
    else:
        loaded = load_data(data, root or None)
        images, count = getattr(loaded, part), len(loaded.classes)
        objects = list(loaded.foreground)
    grid = encoder.grid(*_SIZES[data])
    size = (grid[0] * encoder.patch_size, grid[1] * encoder.patch_size)
    tokens, pixels = [], []
    with torch.no_grad():
        for _, batch, labels in iter_batches(LabeledSet(Subset(images, limit), count, size)):
            tokens.append(encoder.module.forward_entering(batch.to(encoder.device))[0].cpu())
            pixels += [pixel_counts(label, grid, count) for label in labels]
    counts = torch.stack(pixels).double()  # (B, N, C)
    return LabeledPatches(
        torch.cat(tokens), grid, counts[..., objects].sum(dim=2), counts.sum(dim=2)
    )
