"""Rules for values that users set, checked when the object that takes them is constructed."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple, TypeVar

_Function = TypeVar('_Function', bound=Callable[..., Any])
_RULES = '_argument_rules'  # attribute of a checked function


class Rule(NamedTuple):
    """What a value must be.

    Args:
        wanted (str): Description that follows "must be" or "expected".
        holds (callable): Returns whether a value, of any type, complies.
    """

    wanted: str
    holds: Callable[[Any], bool]


def whole(low: float = -math.inf, high: float = math.inf) -> Rule:
    """Return the rule of an integer in a closed range; bool is not an integer."""
    if low == -math.inf:
        limits = '' if high == math.inf else f' <= {high}'
    else:
        limits = f' >= {low}' if high == math.inf else f' in [{low}, {high}]'

    def holds(value: Any) -> bool:
        is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return is_whole and low <= value <= high

    return Rule(f'an integer{limits}', holds)


def number(
    low: float = -math.inf, high: float = math.inf, above: bool = False, below: bool = False
) -> Rule:
    """Return the rule of a finite number in a range.

    Args:
        low (float): Lower end. Defaults to none.
        high (float): Upper end. Defaults to none.
        above (bool): Whether ``low`` itself is excluded. Defaults to False.
        below (bool): Whether ``high`` itself is excluded. Defaults to False.

    Returns:
        Rule: Excludes bool, NaN and infinity.
    """
    if math.isfinite(low) and math.isfinite(high):
        wanted = f'a number in {"(" if above else "["}{low:g}, {high:g}{")" if below else "]"}'
    elif math.isfinite(low):
        wanted = f'a number {">" if above else ">="} {low:g}'
    elif math.isfinite(high):
        wanted = f'a number {"<" if below else "<="} {high:g}'
    else:
        wanted = 'a number'

    def holds(value: Any) -> bool:
        return (
            _is_finite(value)
            and low <= value <= high
            and not (above and value == low)
            and not (below and value == high)
        )

    return Rule(wanted, holds)


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and value == value and abs(value) != math.inf


def one_of(*choices: str) -> Rule:
    """Return the rule of some strings."""
    return Rule(
        f'one of {", ".join(choices)}', lambda value: isinstance(value, str) and value in choices
    )


def or_one_of(rule: Rule, *values: Any) -> Rule:
    """Extend a rule by single values, such as None."""
    names = dict.fromkeys(map(str, values))
    return Rule(
        f'{rule.wanted}, or {" or ".join(names)}',
        lambda given: (
            any(type(given) is type(value) and given == value for value in values)
            or rule.holds(given)
        ),
    )


def sequence(wanted: str, rule: Rule, *counts: int) -> Rule:
    """Return the rule of a list or tuple whose items comply with a rule.

    Args:
        wanted (str): Description of the sequence.
        rule (Rule): Rule of its items.
        *counts (int): Permitted lengths. Defaults to any but 0.
    """

    def holds(value: Any) -> bool:
        return (
            isinstance(value, Sequence)
            and not isinstance(value, (str, bytes))
            and (len(value) in counts if counts else len(value) > 0)
            and all(map(rule.holds, value))
        )

    return Rule(wanted, holds)


def ordered_pair(kind: str, rule: Rule) -> Rule:
    """Return the rule of a lowest and a highest value, such as two numbers >= 0."""
    pair = sequence('', rule, 2)
    return Rule(
        f'two {kind}, low <= high', lambda value: pair.holds(value) and value[0] <= value[1]
    )


def any_of(*rules: Rule) -> Rule:
    """Return the rule of values that comply with at least one of some rules."""
    return Rule(
        ', or '.join(rule.wanted for rule in rules),
        lambda value: any(rule.holds(value) for rule in rules),
    )


FLAG = Rule('True or False', lambda value: isinstance(value, bool))
WHOLES = sequence('a list of integers >= 1', whole(1))
SIDES = any_of(whole(1), sequence('two', whole(1), 2))


def check_rules(values: Mapping[str, Any], rules: Mapping[str, Rule], prefix: str = '') -> None:
    """Check values by their names.

    Args:
        values (Mapping[str, Any]): Name -> value.
        rules (Mapping[str, Rule]): Name -> rule; names without a value are skipped.
        prefix (str): Start of the names in the message. Defaults to ''.

    Raises:
        ValueError: If a value does not comply with its rule.
    """
    for name, rule in rules.items():
        if name in values and not rule.holds(values[name]):
            raise ValueError(f'{prefix}{name} must be {rule.wanted}, got {values[name]!r}')


def check_arguments(**rules: Rule) -> Callable[[_Function], _Function]:
    """Check arguments of a constructor before it runs.

    The check of a config reads these rules, too, to name the whole key (:func:`rules_of`). Rules
    that depend on several arguments belong into the constructor.

    Example::

        @check_arguments(topk=or_one_of(whole(1), None), num_negatives=whole(0))
        def __init__(self, topk=5, num_negatives=5): ...

    Args:
        **rules (Rule): Argument -> rule. An argument may be one that the constructor passes on
            with its ``**kwargs``.

    Returns:
        Callable: Decorator of a constructor, which then raises a ValueError for a value that does
        not comply with its rule.
    """

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        rest = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
        unknown = set(rules) - set(signature.parameters)
        assert rest or not unknown, f'{function.__qualname__} has no arguments {sorted(unknown)}'

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                given = signature.bind_partial(*args, **kwargs).arguments
            except TypeError:
                return function(*args, **kwargs)  # whose error names the function
            for name in rest:
                given.update(given.pop(name, {}))
            check_rules(given, rules)
            return function(*args, **kwargs)

        setattr(wrapper, _RULES, rules)
        return wrapper  # type: ignore[return-value]

    return decorate


def rules_of(function: Any) -> dict[str, Rule]:
    """Rules of the arguments of a constructor; none without :func:`check_arguments`."""
    return dict(getattr(function, _RULES, {}))
