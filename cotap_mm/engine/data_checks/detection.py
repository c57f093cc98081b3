"""Check an MMDetection data set: classes and boxes of its annotations fit the config."""

from __future__ import annotations

import json
import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .findings import SAMPLE, Findings, Part, names, spread
from .image_files import check_image_files

_IMAGE_KEYS = ' (data_prefix.img, relative to data_root)'


def check_detection(part: Part, findings: Findings) -> None:
    """Find errors that would crash MMDetection, or make it train without a box.

    Args:
        part (Part): The data set.
        findings (Findings): Errors and warnings are added to it.

    Raises:
        FileNotFoundError: If a file or folder is missing.
    """
    from mmdet.datasets import BaseDetDataset, CocoDataset, XMLDataset
    from mmdet.registry import DATASETS

    cls = part.class_in(DATASETS)
    if cls is None or not issubclass(cls, BaseDetDataset):
        return
    dataset = part.build(DATASETS)
    if not Path(dataset.ann_file).is_file():
        findings.errors.append(
            f'{part}: the annotation file {dataset.ann_file} does not exist '
            '(ann_file, relative to data_root)'
        )
        return
    if isinstance(dataset.metainfo.get('classes'), str):
        findings.errors.append(
            f'{part}: metainfo.classes must be a list of names, got the string '
            f'{dataset.metainfo["classes"]!r}; write ("NAME", )'
        )
        return
    if cls.load_data_list is CocoDataset.load_data_list:
        _check_coco(part, dataset, findings)
    elif issubclass(cls, XMLDataset) and part.reads_labels():
        _check_infos(part, dataset, findings)


def compare_parts(findings: Findings) -> None:
    """Check that training and validation assign the same label to each class.

    MMDetection numbers the classes of a json in the order of the json.
    """
    orders = list(findings.class_orders.values())
    for (first, one), (second, other) in zip(orders, orders[1:]):
        if one != other:
            findings.errors.append(
                f'{first} and {second} number the classes differently: {names(one)} and '
                f'{names(other)}; MMDetection numbers the categories of each json that are in '
                'metainfo.classes in the order of the json'
            )


def read_coco(path: str) -> dict[str, Any]:
    """Read a COCO json.

    Args:
        path (str): The file.

    Returns:
        dict: Content of the file, with lists ``images``, ``annotations`` and ``categories``.

    Raises:
        ValueError: If the file is damaged or has another format; names the first wrong entry.
    """
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8-sig'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is not a COCO json: {type(error).__name__}: {error}') from error
    wanted = dict(
        images=('id', 'file_name', 'height', 'width'),
        categories=('id', 'name'),
        annotations=('id', 'image_id', 'category_id', 'bbox', 'area'),
    )
    for key, fields in wanted.items():
        rows = content.get(key) if isinstance(content, dict) else None
        if key != 'images' and rows is None and isinstance(content, dict):
            rows = content[key] = []  # of unlabeled images
        if not isinstance(rows, list):
            raise ValueError(f'{path} is not a COCO json: it has no list {key!r}')
        for row in rows:
            lacks = [field for field in fields if not isinstance(row, dict) or field not in row]
            if lacks:
                raise ValueError(
                    f'{path}: {key} must have {", ".join(fields)}; {lacks[0]} is '
                    f'missing in {str(row)[:80]}'
                )
    return content


def _check_coco(part: Part, dataset: Any, findings: Findings) -> None:
    path = dataset.ann_file
    try:
        content = read_coco(path)
    except ValueError as error:
        findings.errors.append(f'{part}: {error}')
        return
    if not content['images']:
        findings.errors.append(f'{part}: {path} lists no images')
        return
    folder = dataset.data_prefix.get('img', '')
    paths = [os.path.join(folder, str(row['file_name'])) for row in content['images']]
    check_image_files(part, paths, findings, _IMAGE_KEYS)
    if not part.reads_labels() and part.name == 'train':
        return  # unlabeled images
    classes = list(dataset.metainfo.get('classes') or ())
    present = [row['name'] for row in content['categories'] if row['name'] in classes]
    theirs = [row['name'] for row in content['categories']]
    if not present:
        findings.errors.append(
            f'{part}: none of the classes of the config ({names(classes)}) is a category of {path} '
            f'({names(theirs)}); set metainfo=dict(classes=(...)) of every data set to these '
            'names, and num_classes of the heads to their number'
        )
        return
    findings.class_orders.setdefault(part.name, (part, tuple(present)))
    if len(present) < len(classes):
        absent = [name for name in classes if name not in present]
        findings.warnings.append(
            f'{part}: {len(absent)} of {len(classes)} classes of the config '
            f'({names(absent)}) are not categories of {path} ({names(theirs)})'
        )
    _check_numbers(part, len(present), findings)
    numbers = {row['id'] for row in content['categories'] if row['name'] in present}
    boxes = [row for row in content['annotations'] if row['category_id'] in numbers]
    _check_boxes(part, path, content, boxes, findings)


def _check_boxes(
    part: Part, path: str, content: dict[str, Any], boxes: list[dict], findings: Findings
) -> None:
    total = len(content['annotations'])
    known = {row['id'] for row in content['images']}
    placed = [row for row in boxes if row['image_id'] in known]
    usable = [row for row in placed if _is_usable(row)]
    if not usable:
        why = (
            f'none of its {total} annotations is a box of a class of the config'
            if not boxes
            else f'its {len(boxes)} boxes do not belong to images of the file'
            if not placed
            else f'all {len(placed)} boxes are ignored, or smaller than a pixel'
        )
        findings.errors.append(f'{part}: {path} has no box to learn or score: {why}')
        return
    if len(usable) < len(placed):
        findings.warnings.append(
            f'{part}: {len(placed) - len(usable)} of {len(placed)} boxes of '
            f'{path} are ignored or smaller than a pixel'
        )
    if part.option('with_mask') and part.name == 'train':
        bare = sum(not row.get('segmentation') for row in usable)
        if bare:
            findings.errors.append(
                f'{part}: {bare} of {len(usable)} annotations of {path} have no '
                'segmentation, and the pipeline loads masks '
                '(LoadAnnotations.with_mask)'
            )


def _is_usable(row: dict[str, Any]) -> bool:
    box = row['bbox']
    return (
        not row.get('ignore')
        and not row.get('iscrowd')
        and isinstance(box, list)
        and len(box) == 4
        and box[2] >= 1
        and box[3] >= 1
        and row['area'] > 0
    )


def _check_infos(part: Part, dataset: Any, findings: Findings) -> None:
    """Check annotations in the VOC format as the library reads them."""
    infos = dataset.load_data_list()
    if not infos:
        findings.errors.append(f'{part}: {dataset.ann_file} lists no images')
        return
    paths = [info['img_path'] for info in infos if 'img_path' in info]
    check_image_files(part, paths, findings, _IMAGE_KEYS)
    classes = dataset.metainfo.get('classes') or ()
    _check_numbers(part, len(classes), findings)
    if all('instances' in info for info in infos) and not any(info['instances'] for info in infos):
        findings.errors.append(
            f'{part}: {len(infos)} images of {dataset.ann_file} have no box of the classes of the '
            f'config ({names(classes)}){_names_in_xml(infos)}'
        )


def _names_in_xml(infos: Sequence[dict[str, Any]]) -> str:
    from xml.etree import ElementTree

    theirs: dict[str, None] = {}
    for info in spread([row for row in infos if 'xml_path' in row], SAMPLE) if infos else ():
        for node in ElementTree.parse(info['xml_path']).getroot().findall('object/name'):
            theirs[str(node.text)] = None
    return f'; the classes in the files are {names(list(theirs))}' if theirs else ''


def _check_numbers(part: Part, count: int, findings: Findings) -> None:
    """Check that labels 0..count - 1 are classes of every head."""
    for head in part.heads:
        if head.num_classes < count:
            findings.errors.append(
                f'{head.key}.num_classes={head.num_classes}, but {part} has boxes of {count} '
                f'classes; set it to {count}'
            )
        elif head.num_classes > count:
            findings.warnings.append(
                f'{head.key}.num_classes={head.num_classes}, but {part} has {count} classes'
            )
