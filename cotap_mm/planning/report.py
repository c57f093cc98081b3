"""Format what ``cotap check`` saw and proposes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cotap_mm.diagnosis.hardware import GIB
from cotap_mm.files.atomic_write import printable

from .capacity import format_capacities
from .devices import Device
from .findings import Finding
from .propose import EFFICIENCY
from .recipe import Recipe
from .survey import Survey

_WIDTH = 100


def format_text(
    survey: Survey, findings: Sequence[Finding], device: Device, recipe: Recipe, command: str
) -> str:
    """Report for a terminal: images, what may be wrong with them, and the proposed training.

    Args:
        survey (Survey): What the images are.
        findings (sequence[Finding]): What may be wrong with them.
        device (Device): What the training runs on.
        recipe (Recipe): The proposal.
        command (str): Command that starts it.

    Returns:
        str: Lines.
    """
    rows = [
        ('images', f'{printable(survey.path)}: {survey.count:,}'),
        ('looked at', describe_sample(survey)),
        ('sizes', describe_sizes(survey)),
        ('reading', f'{1000 * survey.seconds_per_image:.1f} ms per image on one core (measured)'),
        ('device', describe_device(device)),
    ]
    lines = [_row(*row) for row in rows]
    for level in ('error', 'warning', 'note'):
        texts = [finding.text for finding in findings if finding.level == level]
        lines += ['', f'{level}s', *map(_item, texts)] if texts else []
    per_device = ' per GPU' if recipe.gpus else ''
    batch = f'{recipe.batch} images{per_device}'
    if recipe.gpus > 1:
        batch += f', {recipe.gpus} GPUs'
    if recipe.accumulation > 1:
        batch += f', {recipe.accumulation} steps accumulated'
    if recipe.images_per_update != recipe.batch:
        batch += f': {recipe.images_per_update} images per step of the optimizer'
    lines += ['', 'proposed training']
    rows = [
        ('config', recipe.config),
        ('batch', batch),
        ('crops', f'2 of {recipe.global_size} px and 4 of {recipe.local_size} px'),
        ('steps', f'{recipe.iterations:,}'),
        ('workers', f'{recipe.workers}{per_device}'),
        ('memory', describe_memory(recipe, device)),
        ('time', describe_time(recipe, device)),
    ]
    lines += [_row(*row) for row in rows]
    lines += ['', 'why', *map(_item, recipe.notes)] if recipe.notes else []
    if recipe.capacities:
        lines += ['', 'largest batch per GPU (estimate)']
        lines += [
            f'  {line}' for line in format_capacities(recipe.capacities, recipe.batch).splitlines()
        ]
    return '\n'.join([*lines, '', 'command', f'  {command}'])


def as_dict(
    survey: Survey, findings: Sequence[Finding], device: Device, recipe: Recipe, command: str
) -> dict[str, Any]:
    """Report for a program; the arguments are those of :func:`format_text`."""
    return dict(
        images=printable(survey.path),
        count=survey.count,
        sampled=len(survey.looks),
        unreadable=[printable(look.name) for look in survey.bad],
        near_duplicates=[list(map(printable, pair)) for pair in survey.duplicates],
        seconds_per_image=survey.seconds_per_image,
        findings=[dict(level=finding.level, text=finding.text) for finding in findings],
        device=dict(
            kind=device.kind, name=device.name, count=device.count, free_bytes=device.memory
        ),
        config=recipe.config,
        batch_per_device=recipe.batch,
        accumulation=recipe.accumulation,
        iterations=recipe.iterations,
        global_crop=recipe.global_size,
        local_crop=recipe.local_size,
        memory_bytes=recipe.memory,
        seconds_per_step=list(recipe.seconds),
        hours=list(recipe.hours),
        measured=recipe.is_measured,
        capacities=[asdict(capacity) for capacity in recipe.capacities],
        reasons=recipe.notes,
        command=command,
    )


def describe_sample(survey: Survey) -> str:
    """How many images were decoded, and which."""
    seen = len(survey.looks)
    if seen == survey.count:
        return 'all images'
    return (
        f'{seen} of them, evenly spaced pairs of consecutive images (the same ones in every run); '
        'percentages are estimates'
    )


def describe_sizes(survey: Survey) -> str:
    """Smallest, median and largest size."""
    looks = sorted(survey.good, key=lambda look: (look.height * look.width, look.name))
    if not looks:
        return 'no image can be decoded'
    named = {
        name: f'{looks[index].width} x {looks[index].height}'
        for name, index in (('smallest', 0), ('median', len(looks) // 2), ('largest', -1))
    }
    if len(set(named.values())) == 1:
        return f'{named["median"]} px'
    return ', '.join(f'{name} {size}' for name, size in named.items()) + ' px'


def describe_device(device: Device) -> str:
    """Name, memory and measured speed."""
    count = f'{device.count} x ' if device.count > 1 else ''
    kind = '' if device.kind == 'cuda' else 'no GPU; '
    text = f'{kind}{count}{device.name}, {device.memory / GIB:.1f} GB of memory available'
    text += f', {device.cores:g} CPU cores'
    if device.rate:
        text += f'; {device.rate / 1e12:.3g} TFLOP/s in a {device.dtype} product (measured)'
    return text


def describe_memory(recipe: Recipe, device: Device) -> str:
    """Memory of a step, and how it is known."""
    text = f'{recipe.memory / GIB:.1f} of {device.memory / GIB:.1f} GB'
    if recipe.is_measured:
        return f'{text} (measured in a few steps, before the queues are full)'
    return f'about {text} (estimate from the shapes of the tensors)'


def describe_time(recipe: Recipe, device: Device) -> str:
    """Duration of the training, and how it is known."""
    low, high = recipe.hours
    if not high:
        return 'unknown; --measure trains a few steps'
    if recipe.is_measured:
        text = f'about {duration(high)} (measured: {recipe.seconds[1]:.2f} s per step'
        return text + (
            ' on one GPU; the exchange between GPUs is not included)' if recipe.gpus > 1 else ')'
        )
    share = '{:.0%} to {:.0%}'.format(*EFFICIENCY[device.kind])
    return (
        f'{duration(low)} to {duration(high)} (rough estimate: the operations of a step at {share} '
        'of the speed of a matrix product here, or the time to read the images if that is longer; '
        '--measure trains a few steps)'
    )


def duration(hours: float) -> str:
    """A duration in the unit that people would use."""
    if hours < 1:
        return f'{max(60 * hours, 1):.0f} minutes'
    if hours < 72:
        return f'{hours:.1f} hours'
    return f'{hours / 24:,.0f} days'


def _row(name: str, text: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=f'{name.ljust(11)}',
        subsequent_indent=' ' * 11,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _item(text: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent='  * ',
        subsequent_indent='    ',
        break_long_words=False,
        break_on_hyphens=False,
    )
