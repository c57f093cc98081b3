"""What may be wrong with a set of images, in sentences."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cotap_mm.datasets import NeighborPairs
from cotap_mm.files.atomic_write import printable

from .survey import Survey

_FEW = 1_000
_MODERATE = 10_000
_LARGE_SIDE = 1_200  # pixels
_ASPECT = 3.0
_MODES = {
    'L': 'gray, repeated in three channels',
    '1': 'black and white, repeated in three channels',
    'LA': 'gray with transparency, which is dropped',
    'RGBA': 'with transparency, which is dropped',
    'PA': 'with a palette and transparency, which is dropped',
    'P': 'with a palette, converted to RGB',
    'CMYK': 'in CMYK, converted to RGB',
}


@dataclass
class Finding:
    """A property of the images that matters for training.

    Attributes:
        level (str): 'error' if a training would refuse the images, 'warning', or 'note'.
        text (str): One sentence or two.
    """

    level: str
    text: str


def find_image_problems(survey: Survey, crop_size: int) -> list[Finding]:
    """Judge a set of images.

    Args:
        survey (Survey): What was seen.
        crop_size (int): Side of a global crop in pixels.

    Returns:
        list[Finding]: Errors first, then warnings, then notes.
    """
    found = [
        *_number(survey),
        *_damage(survey),
        *_links(survey),
        *_similarity(survey),
        *_sizes(survey, crop_size),
        *_colors(survey),
    ]
    order = ('error', 'warning', 'note')
    return sorted(found, key=lambda finding: order.index(finding.level))


def _number(survey: Survey) -> Iterator[Finding]:
    if survey.count < 2:
        yield Finding('error', f'{survey.count} image: a training needs at least 2')
    elif survey.count < _FEW:
        yield Finding(
            'warning',
            f'{survey.count:,} images are few: expect features for these images rather than '
            'general ones, and compare them with the initial weights (cotap evaluate, cotap '
            'visualize). The smallest set with a measured gain is 160 images '
            '(docs/benchmarks.md)',
        )
    elif survey.count < _MODERATE:
        yield Finding(
            'note',
            f'{survey.count:,} images are enough to adapt to one domain; the paper trains on '
            '118,000 (COCO)',
        )


def _damage(survey: Survey) -> Iterator[Finding]:
    bad, seen = survey.bad, len(survey.looks)
    if not bad:
        return
    allowed = inspect.signature(NeighborPairs).parameters['max_bad_fraction'].default
    first = '; '.join(look.error for look in bad[:3])
    yield Finding(
        'error' if len(bad) > max(2, allowed * seen) else 'warning',
        f'{len(bad)} of {seen} images cannot be decoded, e.g. {first}. A training replaces '
        f'such images and aborts if they are more than {allowed:.0%}; repair or remove them',
    )


def _links(survey: Survey) -> Iterator[Finding]:
    if survey.links:
        names = ', '.join(map(printable, survey.links[:3]))
        yield Finding(
            'warning',
            f'{len(survey.links)} links lead to a folder that is read already, or to their own '
            f'parent, and are skipped: {names}',
        )


def _similarity(survey: Survey) -> Iterator[Finding]:
    alike, compared = survey.consecutive
    if compared >= 10 and alike > 0.2 * compared:
        yield Finding(
            'warning',
            f'{alike} of {compared} consecutive images are nearly identical to their predecessor, '
            "like frames of a video: they become each other's positives, and teach little. "
            'Keep one of several, e.g. one frame per second, in a list for --ann-file',
        )
    elif survey.duplicates:
        names = {name for pair in survey.duplicates for name in pair}
        first, second = survey.duplicates[0]
        share = len(names) / max(len(survey.looks), 1)
        yield Finding(
            'warning' if share > 0.05 else 'note',
            f'{len(names)} of {len(survey.looks)} images have a near duplicate among them, e.g. '
            f'{printable(first)} and {printable(second)}; a near duplicate is a positive that '
            'teaches nothing',
        )
    if survey.blank:
        level = 'warning' if len(survey.blank) > 0.02 * len(survey.looks) else 'note'
        yield Finding(
            level,
            f'{len(survey.blank)} of {len(survey.looks)} images have a single color, e.g. '
            f'{printable(survey.blank[0])}; remove them',
        )


def _sizes(survey: Survey, crop_size: int) -> Iterator[Finding]:
    sides = survey.shorter_sides()
    if not len(sides):
        return
    small = float((sides < crop_size).mean())
    if small > 0.05:
        yield Finding(
            'warning' if small > 0.5 else 'note',
            f'{small:.0%} of the images have a shorter side below {crop_size} px (median '
            f'{int(np.median(sides))} px), so that their crops are enlarged',
        )
    if np.median(sides) > _LARGE_SIDE:
        yield Finding(
            'note',
            f'the images are large (median shorter side {int(np.median(sides))} px): a crop covers '
            'at least half of each side and is shrunk, so small objects vanish. For those, cut '
            'the images into tiles, or draw smaller crops: --cfg-options '
            'train_dataloader.dataset.crops.global_scale="(0.05,0.25)"',
        )
    long = [
        look
        for look in survey.good
        if max(look.height, look.width) > _ASPECT * min(look.height, look.width)
    ]
    if len(long) > 0.05 * len(survey.good):
        yield Finding(
            'warning',
            f'{len(long)} of {len(survey.good)} images are more than {_ASPECT:g} times as long as '
            f'wide, e.g. {printable(long[0].name)}: crops have aspect ratios from 3:4 to 4:3 and '
            'miss most of them; cut them into parts',
        )


def _colors(survey: Survey) -> Iterator[Finding]:
    modes = survey.modes()
    total = sum(modes.values())
    for mode, count in modes.most_common():
        if mode in _MODES:
            yield Finding('note', f'{count} of {total} images are {_MODES[mode]}')
    deep = sum(look.is_deep for look in survey.good)
    if deep:
        yield Finding(
            'note' if deep == total else 'warning',
            f'{deep} of {total} images have more than 8 bits per channel; their values '
            f'{survey.value_range or "of each file"} become 0 to 255 (--value-range LOW HIGH '
            'sets another range)' + ('' if deep == total else '; images of both kinds are mixed'),
        )
