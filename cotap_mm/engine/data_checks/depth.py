"""Find images with more than 8 bits in downstream data, and set the range they are scaled from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Optional

from mmengine.config import Config
from mmengine.logging import print_log

from cotap_mm.datasets import LoadImage
from cotap_mm.datasets.sources.decoding import sample_image
from cotap_mm.datasets.sources.files import read_image_bytes
from cotap_mm.datasets.sources.formats import DEEP_SUFFIXES, suffix_of
from cotap_mm.datasets.sources.value_range import ValueRange, find_range, is_usual

from .findings import SAMPLE, DeepImage, Findings, Part, name_of, spread, steps_of

_OURS = 'cotap_mm.LoadImage'


def collect_deep_images(part: Part, paths: Sequence[str], findings: Findings) -> None:
    """Collect values of images with more than 8 bits.

    Args:
        part (Part): The data set.
        paths (sequence): All its images. Up to 64 are read, of formats that can have more
            than 8 bits.
        findings (Findings): ``deep_images`` are added to it.
    """
    deep = [path for path in paths if suffix_of(str(path)) in DEEP_SUFFIXES]
    for path in spread(deep, SAMPLE) if deep else ():
        try:
            values = sample_image(read_image_bytes(path))
        except Exception:  # damaged images are reported by other checks; decoders raise many types
            continue
        if values is not None:
            findings.deep_images.append(DeepImage(part, str(path), values))


def range_of(findings: Findings) -> Optional[ValueRange]:
    """Value range of the training images, or of all images if no training image is deep.

    Returns:
        ValueRange: None if all sampled images have 8 bits.
    """
    images = [image for image in findings.deep_images if image.part.name == 'train']
    images = images or findings.deep_images
    return find_range([image.values for image in images]) if images else None


def judge_depth(findings: Findings) -> None:
    """Warn if a library's own transform would read images with more than 8 bits.

    A test whose ``cotap_mm.LoadImage`` has no fixed range is an error: the range would come from
    the test images, but the model was trained with another range.
    """
    value_range = range_of(findings)
    if value_range is None:
        return
    first: dict[str, DeepImage] = {}
    for image in findings.deep_images:
        first.setdefault(str(image.part), image)
    for image in first.values():
        steps = list(steps_of(image.part.config.get('pipeline')))
        if any(_loses_bits(step, findings.deep_images, value_range) for step in steps):
            findings.warnings.append(
                f'{image.part}: image {image.path} has more than 8 bits, which LoadImageFromFile '
                f"shifts, clips or rejects; replace it by dict(type='{_OURS}', value_range="
                f'{value_range.as_option()}) in every pipeline ({value_range} is the range of the '
                'sampled images)'
            )
        if image.part.name == 'test' and any(map(_is_open, steps)):
            findings.errors.append(
                f'{image.part}: image {image.path} has more than 8 bits, and {_OURS} has '
                "value_range='auto'; test with the config that the training has saved in its "
                f'work folder, or set the value_range of that config (range of these images: '
                f'{value_range})'
            )


def set_value_range(config: Config, value_range: Optional[ValueRange]) -> None:
    """Set the range of each ``cotap_mm.LoadImage`` with ``value_range='auto'``, and log it.

    Args:
        config (Config): Changed in place, so that the range is saved with the run.
        value_range (ValueRange, optional): The range; None changes nothing.
    """
    if value_range is None:
        return
    steps = [step for key in config for step in steps_of(config[key]) if _is_open(step)]
    for step in steps:
        step['value_range'] = value_range.as_option()
    if steps:
        print_log(
            f'images have more than 8 bits; {_OURS} scales their values {value_range} to 0..255 in '
            'training, validation and test. Set its value_range=(low, high) for another range',
            logger='current',
            level=logging.INFO if is_usual(value_range) else logging.WARNING,
        )


def _is_open(step: dict[str, Any]) -> bool:
    value = step.get('value_range', 'auto')
    return step['type'] in (_OURS, LoadImage) and isinstance(value, str) and value == 'auto'


def _loses_bits(step: dict[str, Any], images: list[DeepImage], value_range: ValueRange) -> bool:
    """Whether a step is MMCV's transform with settings that do not keep 16 bits."""
    if (
        name_of(step) != 'LoadImageFromFile'
        or step.get('color_type') == 'unchanged'
        or step.get('imdecode_backend') == 'tifffile'
    ):
        return False
    fills_16_bits = value_range == ValueRange((0,), (65535,)) and all(
        image.values.is_integer and image.values.full == 65535 for image in images
    )
    return not (fills_16_bits and step.get('imdecode_backend', 'cv2') in ('cv2', None))
