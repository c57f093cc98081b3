"""Fit the schedules of a config to the length of its training."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log


def training_length(config: Config) -> tuple[str, Any]:
    """Length of the training of a config.

    Returns:
        tuple[str, object]: ``'max_iters'`` or ``'max_epochs'``, and its value; ``('', None)``
        if the config does not train.

    Raises:
        ValueError: If the config sets both.
    """
    stated = config.get('train_cfg') or {}
    units = [name for name in ('max_iters', 'max_epochs') if stated.get(name) is not None]
    if len(units) > 1:
        raise ValueError(
            f'train_cfg must have either max_iters or max_epochs, got max_iters='
            f'{stated.max_iters} and max_epochs={stated.max_epochs}; set only the one that '
            'the config uses'
        )
    return (units[0], stated[units[0]]) if units else ('', None)


def fit_schedules(config: Config, usual: tuple[str, Any]) -> None:
    """Shrink the schedules of a shortened training if one would begin after its end.

    All bounds in the unit of the training are then scaled with its length, and a warm-up shorter
    than one step is dropped. The changes are logged. Other schedules are unchanged.

    Args:
        config (Config): ``param_scheduler`` is changed in place.
        usual (tuple[str, object]): :func:`training_length` before command-line options were
            applied.

    Raises:
        ValueError: If the length is not a positive integer, or a schedule does not fit the
            unchanged length of the config.
    """
    unit, length = training_length(config)
    if not unit:
        return
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise ValueError(f'train_cfg.{unit} must be an integer >= 1, got {length!r}')
    late = [
        schedule
        for schedule in _schedules(config.get('param_scheduler'))
        if _counts(schedule, unit) and schedule.get('begin', 0) >= schedule.get('end', length)
    ]
    if not late:
        return
    if usual[0] != unit or not isinstance(usual[1], int) or length >= usual[1]:
        raise ValueError(
            f'param_scheduler: {late[0].get("type")} begins at '
            f'{late[0].get("begin", 0)}, but the training ends at train_cfg.{unit}='
            f'{length}; lower its begin'
        )
    config.param_scheduler = _shrunk(config.param_scheduler, unit, length / usual[1])


def with_ends(config: Config) -> Any:
    """Copy the schedules of a config; those without an end end with the training.

    MMEngine's Runner completes them like this when it builds them.

    Args:
        config (Config): Not changed.

    Returns:
        object: A value for ``param_scheduler``.
    """
    schedules = copy.deepcopy(config.get('param_scheduler') or [])
    unit, length = training_length(config)
    for schedule in _schedules(schedules):
        if _counts(schedule, unit):
            schedule.setdefault('end', length)
    return schedules


def _schedules(part: Any) -> Iterator[dict]:
    """Yield all schedules of one optimizer or several."""
    if isinstance(part, dict) and 'type' in part:
        yield part
    elif isinstance(part, dict):
        for item in part.values():
            yield from _schedules(item)
    elif isinstance(part, (list, tuple)):
        for item in part:
            yield from _schedules(item)


def _counts(schedule: dict, unit: str) -> bool:
    """Whether a schedule is in the unit of the training."""
    return schedule.get('by_epoch', True) == (unit == 'max_epochs')


def _shrunk(part: Any, unit: str, factor: float) -> Any:
    if isinstance(part, dict) and 'type' not in part:
        return {name: _shrunk(item, unit, factor) for name, item in part.items()}
    return [scaled for item in _schedules(part) for scaled in _scaled(item, unit, factor)]


def _scaled(schedule: dict, unit: str, factor: float) -> list[dict]:
    """The scaled schedule in a list, which is empty if the schedule is dropped."""
    if not _counts(schedule, unit):
        return [schedule]
    changed = dict(schedule)
    for name in ('begin', 'end', 'T_max'):
        if isinstance(schedule.get(name), int):
            changed[name] = int(schedule[name] * factor)
    if 'milestones' in schedule:
        changed['milestones'] = [max(int(step * factor), 1) for step in schedule['milestones']]
    is_left = changed.get('end', 1 << 62) > changed.get('begin', 0)
    print_log(
        f'param_scheduler: {schedule["type"]} from {schedule.get("begin", 0)} to '
        f'{schedule.get("end", "the end")} '
        + (
            f'is changed to {changed.get("begin", 0)} to {changed.get("end", "the end")}'
            if is_left
            else 'is dropped'
        )
        + f', because the training has {factor:g} times its length',
        logger='current',
        level=logging.WARNING,
    )
    return [changed] if is_left else []
