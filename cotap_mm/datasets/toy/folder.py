"""Write toy scenes as image files, for everything that reads folders."""

from __future__ import annotations

from pathlib import Path
from typing import Union

from PIL import Image

from .scenes import ToyScenes


def write_toy_scenes(root: Union[str, Path], image_size: int = 96, **num_images: int) -> Path:
    """Draw toy scenes into a folder of PNG files, with a mask for each image.

    ::

        write_toy_scenes('toy', train=200, val=40)
        # toy/images/train/000000.png, ..., toy/labels/train/000000.png, ..., and the same for val

    The layout is that of ``cotap evaluate --data folder`` and of ``custom_upernet.py``; a mask
    has one index into ``ToyScenes.CLASSES`` per pixel. Files of the same names are replaced.

    Args:
        root (str | Path): Folder to write to; it is created if necessary.
        image_size (int): Height and width in pixels, >= 32. Defaults to 96.
        **num_images (int): Split of :class:`.ToyScenes` -> number of images, > 0.

    Returns:
        Path: ``root``.

    Raises:
        ValueError: If there is no split or an unknown one, or a number is out of range.
    """
    if not num_images:
        raise ValueError('give at least one split and its number of images, e.g. train=200')
    root = Path(root)
    for split, count in num_images.items():
        scenes = ToyScenes(split, count, image_size)
        for kind, read in (('images', scenes.read), ('labels', scenes.label)):
            folder = root / kind / split
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                Image.fromarray(read(index)).save(folder / f'{index:06d}.png')
    return root
