"""Images with one class each, for the classification protocols."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Union

import torch
from torchvision.datasets import ImageFolder

from cotap_mm.datasets import ToyScenes
from cotap_mm.datasets.sources.files import ImageFiles
from cotap_mm.datasets.sources.value_range import Option
from cotap_mm.encoders.images import resize_image, to_pixels
from cotap_mm.registry import DATASETS
from cotap_mm.rules import check_arguments, whole

from .segmentation import LabeledScenes


@DATASETS.register_module()
class ClassFolder:
    """Images in one folder per class, as in ImageNet, with resized short side and center crop.

    Args:
        root (str | Path): Folder that contains the class folders.
        crop (int): Side of the crop in pixels; the short side becomes crop * 256 / 224.
            Defaults to 224.
        value_range: See :class:`~cotap_mm.datasets.ImageList`. Defaults to ``'auto'``.

    Raises:
        FileNotFoundError: If there is no folder with images.
    """

    @check_arguments(crop=whole(1))
    def __init__(
        self, root: Union[str, Path], crop: int = 224, value_range: Option = 'auto'
    ) -> None:
        if not Path(root).is_dir():
            raise FileNotFoundError(f'{root} does not exist; it should contain a folder per class')
        folder = ImageFolder(str(root))  # raises FileNotFoundError for an empty class
        self.classes, self.samples, self.crop = tuple(folder.classes), folder.samples, crop
        self.images = ImageFiles([path for path, _ in folder.samples], value_range)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read image (uint8, (3, crop, crop)) and label (int)."""
        label = self.samples[index][1]
        image = to_pixels(self.images.read(index))
        height, width = image.shape[1:]
        short = round(self.crop * 256 / 224)
        scale = short / min(height, width)
        image = resize_image(
            image, (max(short, round(height * scale)), max(short, round(width * scale)))
        )
        top, left = ((side - self.crop) // 2 for side in image.shape[1:])
        return dict(image=image[:, top : top + self.crop, left : left + self.crop], label=label)


class ToyObjects:
    """Toy images of one object, labeled with its class.

    Args:
        scenes (ToyScenes): Scenes of kind ``'single'``.
    """

    def __init__(self, scenes: ToyScenes) -> None:
        self.scenes = LabeledScenes(scenes)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Image (uint8, (3, H, W)) and label (int): the object class with the most pixels."""
        sample = self.scenes[index]
        counts = torch.bincount(sample['label'].flatten(), minlength=len(ToyScenes.CLASSES))
        return dict(image=sample['image'], label=int(counts[3:].argmax()))
