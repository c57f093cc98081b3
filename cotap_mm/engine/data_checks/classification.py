"""Check an MMPretrain data set: images exist, and labels fit the classes of the head."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Any

from .findings import SAMPLE, Findings, Part, spread
from .image_files import check_image_files


def check_classification(part: Part, findings: Findings) -> None:
    """Check a folder or list of images that MMPretrain's CustomDataset reads.

    Only a sample of the files in class folders is listed: ImageNet has a million files.

    Args:
        part (Part): The data set.
        findings (Findings): Errors and warnings are added to it.
    """
    from mmpretrain.datasets import CustomDataset
    from mmpretrain.registry import DATASETS

    cls = part.class_in(DATASETS)
    if (
        cls is None
        or not issubclass(cls, CustomDataset)
        or cls.load_data_list is not CustomDataset.load_data_list
    ):
        return
    dataset = part.build(DATASETS)
    if not dataset.with_label:
        return
    if not Path(dataset.img_prefix).is_dir():
        findings.errors.append(
            f'{part}: the folder {dataset.img_prefix} does not exist (data_root and data_prefix)'
        )
    elif dataset.ann_file:
        _check_list(part, dataset, findings)
    else:
        _check_folders(part, dataset, findings)


def _check_list(part: Part, dataset: Any, findings: Findings) -> None:
    path = Path(dataset.ann_file)
    if not path.is_file():
        findings.errors.append(f'{part}: the list {path} does not exist (ann_file)')
        return
    images: list[str] = []
    highest = -1
    for number, line in enumerate(path.read_text().splitlines(), 1):
        name, _, label = line.strip().rpartition(' ')
        if not name or not label.isdigit():
            findings.errors.append(
                f'{part}: line {number} of {path} must be "NAME LABEL" with an '
                f'integer label, got {line[:80]!r}'
            )
            return
        images.append(os.path.join(dataset.img_prefix, name))
        highest = max(highest, int(label))
    if not images:
        findings.errors.append(f'{part}: the list {path} is empty')
        return
    if check_image_files(part, images, findings):
        _compare(part, highest + 1, f'{path} has labels up to {highest}', findings)


def _check_folders(part: Part, dataset: Any, findings: Findings) -> None:
    root = Path(dataset.img_prefix)
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    if not folders:
        findings.errors.append(f'{part}: {root} has no folders; it needs one folder per class')
        return
    classes = dataset.metainfo.get('classes')
    if classes is not None and len(classes) != len(folders):
        findings.errors.append(
            f'{part}: {root} has {len(folders)} folders, but there are {len(classes)} class names; '
            "use type='CustomDataset', or metainfo=dict(classes=[...]) with these folders"
        )
        return
    images = []
    for folder in spread(folders, SAMPLE):
        files = (
            str(file)
            for file in folder.rglob('*')
            if file.name.lower().endswith(dataset.extensions)
        )
        some = list(islice(files, max(1, SAMPLE // len(folders))))
        if not some:
            findings.errors.append(
                f'{part}: the class folder {folder} has no image ending with '
                f'{", ".join(sorted(dataset.extensions))}'
            )
            return
        images += some
    check_image_files(part, images, findings)
    _compare(part, len(folders), f'{root} has {len(folders)} class folders', findings)


def _compare(part: Part, count: int, what: str, findings: Findings) -> None:
    for head in part.heads:
        if count > head.num_classes:
            findings.errors.append(
                f'{part}: {what}, but {head.key}.num_classes={head.num_classes}; set it to {count}'
            )
