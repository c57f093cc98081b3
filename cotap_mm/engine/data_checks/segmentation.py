"""Check an MMSegmentation data set: images and masks exist, and mask values are classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cotap_mm.evaluation.data.label_files import read_label
from cotap_mm.evaluation.data.mmseg_images import map_label

from .depth import collect_deep_images
from .findings import Findings, Part, counted, image_size, iter_sampled, missing_files, names


def check_segmentation(part: Part, findings: Findings) -> None:
    """Find errors that would crash MMSegmentation, or make it train on wrong labels.

    Args:
        part (Part): The data set.
        findings (Findings): Errors and warnings are added to it.

    Raises:
        FileNotFoundError: If a folder is missing.
    """
    from mmseg.datasets import BaseSegDataset
    from mmseg.registry import DATASETS

    cls = part.class_in(DATASETS)
    if cls is None or not issubclass(cls, BaseSegDataset):
        return
    dataset = part.build(DATASETS)
    infos = dataset.load_data_list()
    if not infos:
        folder = dict(dataset.data_prefix).get('img_path')
        findings.errors.append(
            f'{part} has no image: no file in {folder} ends with {dataset.img_suffix!r} '
            '(img_suffix)'
        )
        return
    missing = missing_files([info['img_path'] for info in infos])
    if missing:
        findings.errors.append(f'{part}: {counted(missing, len(infos), "images")}')
        return
    collect_deep_images(part, [info['img_path'] for info in infos], findings)
    _check_heads(part, dataset, findings)
    if part.reads_labels():
        _check_masks(part, dataset, infos, findings)


def _check_heads(part: Part, dataset: Any, findings: Findings) -> None:
    classes = dataset.metainfo.get('classes')
    for head in part.heads:
        if classes and head.num_classes != len(classes):
            findings.warnings.append(
                f'{head.key}.num_classes={head.num_classes}, but {part} has {len(classes)} classes '
                f'({names(classes)})'
            )


def _check_masks(
    part: Part, dataset: Any, infos: Sequence[dict[str, Any]], findings: Findings
) -> None:
    masks = [info.get('seg_map_path') for info in infos]
    if None in masks:
        findings.errors.append(f'{part} has images without masks: data_prefix has no seg_map_path')
        return
    missing = missing_files(masks)
    if missing:
        findings.errors.append(
            f'{part}: {counted(missing, len(masks), "masks")} (seg_map_suffix is '
            f'{dataset.seg_map_suffix!r})'
        )
        return
    limit = min((max(head.num_classes, 2) for head in part.heads), default=256)
    seen: dict[int, int] = {}
    count = 0
    for info in iter_sampled(infos):
        count += 1
        try:
            values = map_label(read_label(info['seg_map_path'], image_size(info['img_path'])), info)
        except ValueError as error:
            findings.errors.append(f'{part}: {error}')
            return
        present, counts = values.unique(return_counts=True)
        wrong = [
            value
            for value in present.tolist()
            if value != dataset.ignore_index and not 0 <= value < limit
        ]
        if wrong:
            findings.errors.append(_out_of_range(part, info, wrong, limit, dataset))
            return
        for value, pixels in zip(present.tolist(), counts.tolist()):
            seen[value] = seen.get(value, 0) + pixels
    _judge(part, dataset, seen, count, findings)


def _out_of_range(
    part: Part, info: dict[str, Any], wrong: list[int], limit: int, dataset: Any
) -> str:
    shifted = ' (after reduce_zero_label)' if info.get('reduce_zero_label') else ''
    owner = next(
        (
            f'{head.key}.num_classes={head.num_classes}'
            for head in part.heads
            if max(head.num_classes, 2) == limit
        ),
        'masks of 8 bits',
    )
    classes = dataset.metainfo.get('classes')
    known = f'; the data set has {len(classes)} classes ({names(classes)})' if classes else ''
    return (
        f'{part}: label mask {info["seg_map_path"]} has the values {names(wrong)}{shifted}, '
        f'but labels must be 0..{limit - 1} or {dataset.ignore_index} (ignored), since '
        f'{owner}{known}; fix the masks, or num_classes and metainfo.classes'
    )


def _judge(part: Part, dataset: Any, seen: dict[int, int], count: int, findings: Findings) -> None:
    """Check that the sampled masks contain enough classes."""
    ignored = seen.pop(dataset.ignore_index, 0)
    if not seen:
        findings.errors.append(
            f'{part}: every pixel of {count} masks is {dataset.ignore_index}, '
            'which is ignored; there is nothing to learn or score'
        )
    elif len(seen) == 1:
        classes = dataset.metainfo.get('classes') or ()
        value = next(iter(seen))
        title = f' ({classes[value]})' if value < len(classes) else ''
        findings.warnings.append(
            f'{part}: {count} masks contain only class {value}{title}'
            + (
                f' and pixels of {dataset.ignore_index}, which is ignored. If masks have values 0 '
                'and 255, convert them to 0 and 1'
                if ignored
                else ''
            )
        )
