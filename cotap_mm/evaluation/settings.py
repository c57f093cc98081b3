"""Check the settings of a protocol against the annotations of its function."""

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

from cotap_mm.evaluation.data.labeled_set import (
    READING_DEFAULTS,
    LabeledSet,
    labeled_set_parameters,
)


class Range(NamedTuple):
    """Range of allowed numbers, from ``low`` (included if ``closed``) to ``high``."""

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
#: Allowed range of every numeric setting; a name means the same in every protocol.
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
    """Convert settings to the annotated types, and check their ranges.

    A single value becomes a sequence of one, a list becomes a tuple, and 5.0 becomes 5.

    Args:
        protocol (str): Name of the protocol, for messages.
        measure (Callable): Its function; the annotations define the types.
        options (dict): Settings as written by a user.

    Returns:
        dict: The settings, converted to the annotated types.

    Raises:
        ValueError: If settings are unknown, of a wrong type, or out of range; one message lists
            all of them.
    """
    known = defaults_of(measure)
    hints = types_of(measure)
    converted, wrong = {}, []
    for key, value in options.items():
        if key not in known:
            wrong.append(f'{protocol} has no option {key}{nearest(key, known)}')
            continue
        try:
            converted[key] = _converted(value, hints[key])
        except TypeError:
            wrong.append(f'{key} of {protocol} must be {describe(hints[key])}, got {value!r}')
            continue
        if key in RANGES and any(number not in RANGES[key] for number in _numbers(converted[key])):
            wrong.append(f'{key} of {protocol} must be {RANGES[key]}, got {value!r}')
    if wrong:
        raise ValueError('; '.join(wrong))
    return converted


def defaults_of(measure: Callable[..., Any]) -> dict[str, Any]:
    """Settings of a protocol's function with their defaults.

    They include the fields of :class:`LabeledSet` that have a default, if the function has such
    a parameter.
    """
    defaults = {
        parameter.name: parameter.default
        for parameter in inspect.signature(measure).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    }
    return {**defaults, **READING_DEFAULTS} if labeled_set_parameters(measure) else defaults


def types_of(measure: Callable[..., Any]) -> dict[str, Any]:
    """Annotated types of all settings of a protocol's function."""
    hints = get_type_hints(measure)
    return {**get_type_hints(LabeledSet), **hints} if labeled_set_parameters(measure) else hints


def nearest(key: str, known: Collection[str]) -> str:
    """End of a sentence that suggests the closest name and lists all names."""
    near = difflib.get_close_matches(key, sorted(known), 1)
    meant = f'; did you mean {near[0]}?' if near else ''
    return f'{meant}; it has {", ".join(known)}'


def describe(wanted: Any) -> str:
    """Describe a type in words, such as "an integer or None"."""
    origin = get_origin(wanted) or wanted
    if origin is Union:
        return ' or '.join(describe(choice) for choice in get_args(wanted))
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
    items = [describe(item).split(' ', 1)[-1] for item in get_args(wanted) if item is not Ellipsis]
    if origin is tuple and len(items) > 1:
        return f'{len(items)} {items[0]}s as (A,B)'
    return f'one or several {items[0] if items else "value"}s as A,B'


def _converted(value: Any, wanted: Any) -> Any:
    """Convert a value to a type; ``TypeError`` if it does not fit."""
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
        return tuple(_converted(part, item) for part, item in zip(value, items))
    if inspect.isclass(origin) and issubclass(origin, collections.abc.Sequence):
        return _sequence(value, next(iter(get_args(wanted)), Any))
    return value


def _first_fitting(value: Any, choices: Sequence[Any]) -> Any:
    if torch.device in choices:  # stricter than str
        choices = [choice for choice in choices if choice is not str]
    for choice in choices:
        try:
            return _converted(value, choice)
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
    """Convert to a non-empty tuple."""
    if isinstance(value, (str, numbers.Number)):
        value = (value,)
    _only(value, isinstance(value, collections.abc.Sequence) and len(value) > 0)
    return tuple(_converted(part, item) for part in value)


def _device(value: Any) -> torch.device:
    try:
        device = torch.device(value)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise TypeError from error
    return device


def _numbers(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, numbers.Real) and not isinstance(value, bool) else []
