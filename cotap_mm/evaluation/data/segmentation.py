"""Images with a class per pixel, as the dense evaluations read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from torch import Tensor

from cotap_mm.datasets import ImageList
from cotap_mm.datasets.opened import open_source
from cotap_mm.datasets.sources.value_range import Option
from cotap_mm.encoders.images import Size, resize_image
from cotap_mm.ops.sampling import evenly_spaced
from cotap_mm.registry import DATASETS
from cotap_mm.rules import SIDES, check_arguments, or_one_of, whole

from .label_files import IGNORE_LABEL, read_label

__all__ = ['IGNORE_LABEL', 'ImageMaskFolder', 'LabeledScenes', 'build_labeled']


@DATASETS.register_module()
class ImageMaskFolder:
    """A folder of images and a folder of label masks with the same stems.

    A mask is an image of class indices, see :func:`~.label_files.read_label`; 255 is
    ignored. Only images are resized; predictions are resized to the masks.

    Args:
        images (str | Path): Folder of images, read recursively.
        labels (str | Path): Folder with ``<same sub-folder>/<same stem>.png``.
        image_size (int | tuple, optional): Side of a square, or (height, width), to which
            images are resized, in pixels. Defaults to None (keep the original size).
        limit (int, optional): Keep at most this many images, evenly spaced in the sorted
            names. Defaults to None (all).
        value_range: See :class:`~cotap_mm.datasets.ImageList`. Defaults to ``'auto'``.

    Raises:
        FileNotFoundError: If there is no image, or an image has no mask.
        ValueError: If ``limit`` is not positive.
    """

    @check_arguments(image_size=or_one_of(SIDES, None), limit=or_one_of(whole(1), None))
    def __init__(
        self,
        images: Union[str, Path],
        labels: Union[str, Path],
        image_size: Optional[Size] = None,
        limit: Optional[int] = None,
        value_range: Option = 'auto',
    ) -> None:
        self.images = ImageList(images, value_range=value_range)
        count = len(self.images)
        self.indices = evenly_spaced(count, count if limit is None else limit)
        self.masks = [
            Path(labels) / Path(self.images.name(i)).with_suffix('.png') for i in self.indices
        ]
        missing = [mask for mask in self.masks if not mask.is_file()]
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of {len(self.masks)} images have no mask, '
                f'the first is {missing[0]}'
            )
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Read one image and its mask.

        Returns:
            dict: image (uint8, (3, h, w)) and label (int64, (H, W)).

        Raises:
            ValueError: If the mask is unusable, see :func:`~.label_files.read_label`.
        """
        pixels = torch.from_numpy(self.images.read(self.indices[index])).permute(2, 0, 1)
        height, width = pixels.shape[1:]
        label = read_label(self.masks[index], (height, width))
        return dict(image=resize_image(pixels, self.image_size), label=label)

    def label_file(self, index: int) -> str:
        """Path of a mask, for error messages."""
        return str(self.masks[index])


class LabeledScenes:
    """Adapter for a data set with ``read(i)`` and ``label(i)``, such as ``ToyScenes``.

    Args:
        scenes: Provides ``len``, ``read(i) -> uint8 (H, W, 3)`` and ``label(i) -> (H, W)``.
    """

    def __init__(self, scenes: Any) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Read image (uint8, (3, H, W)) and label (int64, (H, W))."""
        if not 0 <= index < len(self):
            raise IndexError(f'index {index} is out of range 0..{len(self) - 1}')
        image = torch.from_numpy(np.array(self.scenes.read(index)))  # (H, W, 3)
        label = torch.from_numpy(np.array(self.scenes.label(index), dtype=np.int64))
        return dict(image=image.permute(2, 0, 1).contiguous(), label=label)


def build_labeled(source: Any) -> Any:
    """Build the labeled data set that ``source`` describes.

    Args:
        source: A config of our ``DATASETS``, a data set of ``dict(image, label)``, or a
            data set with ``read(i)`` and ``label(i)``. Of a config that was opened before, see
            :func:`.hand_on`, the opened data set is used.

    Returns:
        A data set of ``dict(image=uint8 (3, H, W), label=(H, W))``.
    """
    if isinstance(source, dict):
        source = open_source(source, use='evaluation')
    return LabeledScenes(source) if hasattr(source, 'read') else source
