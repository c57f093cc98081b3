"""Settings of the protocols, checked against the annotations of their functions."""

from __future__ import annotations

import collections.abc
import difflib
import inspect
import math
import numbers
from collections.abc import Collection, Sequence
from typing import (
    Any,
    Callable,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import torch


class Range(NamedTuple):
    """Allowed numbers: from ``low`` to ``high``, ``low`` itself only if ``closed``."""

    low: float
    closed: bool = True
    high: float = math.inf

    def __contains__(self, value: object) -> bool:
        return (
            isinstance(value, numbers.Real)
            and float(value) <= self.high
            and (float(value) >= self.low if self.closed else float(value) > self.low)
        )

    def __str__(self) -> str:
        lower = f'at least {self.low:g}' if self.closed else f'more than {self.low:g}'
        return lower if self.high == math.inf else f'{lower} and at most {self.high:,}'


_COUNT, _NOT_NEGATIVE = Range(1, high=10**9), Range(0, high=10**9)
_POSITIVE, _SHARE = Range(0, closed=False), Range(0, closed=False, high=1)
_SEED = Range(0, high=2**32 - 1)
#: Ranges of all numbers of a setting; a name means the same in every protocol.
RANGES = {
    'image_size': _COUNT,
    'batch_size': _COUNT,
    'k': _COUNT,
    'memory_size': _COUNT,
    'augmentation_epochs': _NOT_NEGATIVE,
    'temperature': _POSITIVE,
    'steps': _COUNT,
    'lr': _POSITIVE,
    'train_batch': _COUNT,
    'num_clusters': _COUNT,
    'seeds': _SEED,
    'seed': _SEED,
    'num_components': _COUNT,
    'mask_size': Range(1, high=10_000),
    'background': _NOT_NEGATIVE,
    'max_patches': _COUNT,
    'purity': _SHARE,
    'sample_size': _COUNT,
    'foreground_classes': _NOT_NEGATIVE,
    'mass': _SHARE,
    'sigma': _POSITIVE,
    'step': _COUNT,
    'grid_k': _COUNT,
    'grid_temperature': _POSITIVE,
    'epochs': _COUNT,
    'short_side': _COUNT,
    'multiple': _COUNT,
    'num_previous': _NOT_NEGATIVE,
    'radius': _NOT_NEGATIVE,
    'topk': _COUNT,
}


def check_settings(
    protocol: str, measure: Callable[..., Any], options: dict[str, Any]
) -> dict[str, Any]:
    """Bring settings to the types of a protocol's function, or say what is wrong with them.

    A single value is taken for a sequence of one, a list for a tuple, and 5.0 for 5.

    Args:
        protocol (str): Name, for messages.
        measure (Callable): Its function; annotations say what a setting may be.
        options (dict): Settings as a user has written them.

    Returns:
        dict: The same settings, of the annotated types.

    Raises:
        ValueError: If a setting is unknown, of another type, or out of its range; all in one
            message.
    """
    known = defaults_of(measure)
    hints = get_type_hints(measure)
    found, wrong = {}, []
    for key, value in options.items():
        if key not in known:
            wrong.append(f'{protocol} has no option {key}{nearest(key, known)}')
            continue
        try:
            found[key] = _converted(value, hints[key])
        except TypeError:
            wrong.append(f'{key} of {protocol} must be {describe(hints[key])}, got {value!r}')
            continue
        if key in RANGES and any(each not in RANGES[key] for each in _numbers(found[key])):
            wrong.append(f'{key} of {protocol} must be {RANGES[key]}, got {value!r}')
    if wrong:
        raise ValueError('; '.join(wrong))
    return found


def defaults_of(measure: Callable[..., Any]) -> dict[str, Any]:
    """Settings of a protocol's function with their defaults."""
    return {
        each.name: each.default
        for each in inspect.signature(measure).parameters.values()
        if each.default is not inspect.Parameter.empty
    }


def nearest(key: str, known: Collection[str]) -> str:
    """What a misspelled name may mean, and all names, as the end of a sentence."""
    near = difflib.get_close_matches(key, sorted(known), 1)
    meant = f'; did you mean {near[0]}?' if near else ''
    return f'{meant}; it has {", ".join(known)}'


def describe(wanted: Any) -> str:
    """A type in words, such as "an integer or None"."""
    origin = get_origin(wanted) or wanted
    if origin is Union:
        return ' or '.join(describe(each) for each in get_args(wanted))
    names = {
        int: 'an integer',
        float: 'a finite number',
        bool: 'True or False',
        str: 'a name',
        type(None): 'None',
        torch.device: 'a device',
    }
    if origin in names:
        return names[origin]
    items = [describe(each).split(' ', 1)[-1] for each in get_args(wanted) if each is not Ellipsis]
    if origin is tuple and len(items) > 1:
        return f'{len(items)} {items[0]}s as (A,B)'
    return f'one or several {items[0] if items else "value"}s as A,B'


def _converted(value: Any, wanted: Any) -> Any:
    """The value as the type; TypeError if it is another."""
    origin = get_origin(wanted) or wanted
    if origin is Union:
        return _first_fitting(value, get_args(wanted))
    if origin is type(None):
        return _only(value, value is None)
    if origin in (bool, str):
        return _only(value, isinstance(value, origin))
    if origin is torch.device:
        return _device(value)
    if origin in (int, float):
        return _number(value, origin)
    if origin is tuple and Ellipsis not in get_args(wanted):
        items = get_args(wanted)
        _only(value, isinstance(value, (list, tuple)) and len(value) == len(items))
        return tuple(_converted(each, item) for each, item in zip(value, items))
    if inspect.isclass(origin) and issubclass(origin, collections.abc.Sequence):
        return _sequence(value, next(iter(get_args(wanted)), Any))
    return value


def _first_fitting(value: Any, choices: Sequence[Any]) -> Any:
    if torch.device in choices:  # of str and device, the stricter
        choices = [each for each in choices if each is not str]
    for each in choices:
        try:
            return _converted(value, each)
        except TypeError:
            continue
    raise TypeError


def _only(value: Any, fits: bool) -> Any:
    if not fits:
        raise TypeError
    return value


def _number(value: Any, kind: type) -> Any:
    _only(value, isinstance(value, numbers.Real) and not isinstance(value, bool))
    _only(value, math.isfinite(value) and (kind is float or value == int(value)))
    return kind(value)


def _sequence(value: Any, item: Any) -> tuple[Any, ...]:
    """A tuple that is not empty."""
    if isinstance(value, (str, numbers.Number)):
        value = (value,)
    _only(value, isinstance(value, collections.abc.Sequence) and len(value) > 0)
    return tuple(_converted(each, item) for each in value)


def _device(value: Any) -> torch.device:
    try:
        device = torch.device(value)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise TypeError from error
    return device


def _numbers(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [each for item in value for each in _numbers(item)]
    return [value] if isinstance(value, numbers.Real) and not isinstance(value, bool) else []
