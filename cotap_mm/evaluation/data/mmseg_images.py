"""Read images and labels of MMSegmentation's data sets without their pipelines and wrappers."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any, Union

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from cotap_mm.datasets.sources.files import ImageFiles
from cotap_mm.datasets.sources.joined import JoinedImages
from cotap_mm.datasets.wrapped import inner_datasets
from cotap_mm.encoders.images import to_pixels

from .label_files import IGNORE_LABEL, read_label


class MMSegImages:
    """Images and label maps of a data set of MMSegmentation, without its pipeline.

    Args:
        dataset (BaseSegDataset): Lists the files and maps the labels.

    Attributes:
        images (ImageFiles): The images, scaled from one range of values.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.classes = tuple(dataset.metainfo.get('classes') or ())
        if not self.classes:
            raise ValueError(
                f'{type(dataset).__name__} has no class names; pass them as '
                "metainfo=dict(classes=('NAME', ...))"
            )
        # Use the list if there is one: get_data_info copies, and COCO has 118,000 images.
        infos = getattr(dataset, 'data_list', None) or map(
            dataset.get_data_info, range(len(dataset))
        )
        self.images = ImageFiles([info['img_path'] for info in infos])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Read image (uint8, (3, H, W)) and label (int64, (H, W), 255 ignored)."""
        info = self.dataset.get_data_info(index)
        image = to_pixels(self.images.read(index))
        label = read_label(info['seg_map_path'], (image.shape[1], image.shape[2]))
        return dict(image=image, label=map_label(label, info))

    def label_file(self, index: int) -> str:
        """Path of a mask, for error messages."""
        return str(self.dataset.get_data_info(index).get('seg_map_path'))


def map_label(label: Tensor, info: dict[str, Any]) -> Tensor:
    """Map the values of a mask to MMSegmentation's class indices.

    Args:
        label (Tensor): Values of the file, int64, any shape.
        info (dict): Contains ``reduce_zero_label`` and ``label_map`` of the data set.

    Returns:
        Tensor: int64, the same shape; values without an entry in ``label_map`` are unchanged.
    """
    if info.get('reduce_zero_label'):  # 0 is "other"
        label = torch.where((label == 0) | (label == IGNORE_LABEL), IGNORE_LABEL, label - 1)
    if not info.get('label_map'):
        return label
    table = torch.arange(max(IGNORE_LABEL, int(label.max())) + 1)
    for old, new in info['label_map'].items():
        table[old] = new
    return torch.where(label < 0, label, table[label.clamp_min(0)])


class ConcatenatedImages(ConcatDataset):
    """Concatenation of data sets of labeled images with the same classes.

    Args:
        parts (sequence[MMSegImages]): At least one, none of them empty. The images of all
            parts are scaled from one range of values.
    """

    def __init__(self, parts: Sequence[MMSegImages]) -> None:
        super().__init__(parts)
        self.classes = parts[0].classes
        self.images = JoinedImages([part.images for part in parts])

    def label_file(self, index: int) -> str:
        """Path of a mask, for error messages."""
        part = bisect.bisect_right(self.cumulative_sizes, index)
        start = self.cumulative_sizes[part - 1] if part else 0
        return self.datasets[part].label_file(index - start)


def mmseg_images(name: str, part: dict[str, Any]) -> Union[MMSegImages, ConcatenatedImages]:
    """Open a data set of MMSegmentation, or the data sets inside its wrappers.

    Args:
        name (str): Name of the data, for error messages.
        part (dict): Config of the data set.

    Returns:
        A data set of ``dict(image, label)`` with ``classes``.

    Raises:
        FileNotFoundError: If files or folders are missing.
        ValueError: If MMSegmentation is not installed, or this is another kind of data set.
    """
    try:
        import mmseg.datasets  # noqa: F401  (registers its data sets)
        from mmseg.registry import DATASETS

        import cotap_mm.downstream  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'{name} is read through MMSegmentation, which cannot be imported '
            f'({error}); see docs/install.md for how to install it'
        ) from error
    opened = []
    for inner in inner_datasets(part):
        root = inner.get('data_root') or '.'
        try:
            dataset = DATASETS.build(
                {'_scope_': 'mmseg', **inner, 'pipeline': [], 'serialize_data': False}
            )  # raises if there are no images
            opened.append(MMSegImages(dataset))
        except (AssertionError, FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(
                f'{name} is incomplete in {root}: {error}. See the table in '
                'cotap_mm/evaluation/data/load.py'
            ) from error
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{inner.get("type")} of {name} is not a data set of MMSegmentation '
                f'({type(error).__name__}: {error})'
            ) from error
        if len(dataset) and not dataset.get_data_info(0).get('seg_map_path'):
            raise ValueError(
                f'{inner.get("type")} of {name} has no label masks: its data_prefix '
                'has no seg_map_path'
            )
        if not len(dataset):
            raise FileNotFoundError(
                f'{name} has no images in {root}: expected files ending in '
                f'{getattr(dataset, "img_suffix", "")} in {_image_folder(dataset)}'
            )
    classes = {images.classes for images in opened}
    if len(classes) > 1:
        raise ValueError(
            f'the data sets inside {name} must have the same classes, got '
            f'{" and ".join(map(str, sorted(classes)))}'
        )
    return opened[0] if len(opened) == 1 else ConcatenatedImages(opened)


def _image_folder(dataset: Any) -> str:
    return str(dict(getattr(dataset, 'data_prefix', None) or {}).get('img_path') or 'its folder')
