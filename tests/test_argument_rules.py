"""Values that cannot be meant are refused by every part that a config may name."""

from __future__ import annotations

import inspect
import re
from typing import get_type_hints

import numpy as np
import pytest
from mmengine.registry import Registry

from cotap_mm import registry as registries
from cotap_mm.engine.launch.validation import _OPTIONS, argument_rules
from cotap_mm.rules import check_arguments, number, one_of, or_one_of, sequence, whole
from tests.helpers.nonsense_values import ACCEPTED, NONSENSE, WITHOUT_RULE


@pytest.mark.parametrize(
    'part, argument',
    [(part, argument) for part, (_, arguments) in NONSENSE.items() for argument in arguments],
)
def test_nonsense_is_refused(part, argument):
    build, arguments = NONSENSE[part]
    if build is None:  # its other arguments are files
        rule = argument_rules(kinds()[part])[argument]
        assert not any(map(rule.holds, arguments[argument]))
        return
    for value in arguments[argument]:
        try:
            built = build(**{argument: value})
        except (ValueError, TypeError) as error:
            assert isinstance(error, ValueError), (value, error)
            assert argument.split('_')[-1] in str(error), (value, error)
        else:
            pytest.fail(f'{argument}={value!r} is accepted: {built}')


@pytest.mark.parametrize(
    'part', [part for part, (build, _) in NONSENSE.items() if build and part != 'CompileHook']
)
def test_defaults_are_accepted(part):
    NONSENSE[part][0]()  # a CompileHook would import the compiler


@pytest.mark.parametrize('part, options', ACCEPTED)
def test_unusual_values_are_accepted(part, options):
    NONSENSE[part][0](**options)


def kinds():
    """Our classes by name that a config may name."""
    found = {kind.__name__: kind for kind in _OPTIONS.values()}
    for registry in vars(registries).values():
        if isinstance(registry, Registry):
            found.update(registry.module_dict)
    return {
        name: kind
        for name, kind in found.items()
        if inspect.isclass(kind) and kind.__module__.startswith('cotap_mm')
    }


def test_every_number_and_flag_has_a_rule():
    missing = []
    for name, kind in kinds().items():
        rules = argument_rules(kind)
        if '__init__' not in vars(kind) or name == 'SearchOptions':
            continue
        for argument, hint in get_type_hints(kind.__init__).items():
            is_number = re.search(r'\b(int|float|bool)\b', str(hint)) and 'dict[' not in str(hint)
            others = {'return', 'value_range'}  # value_range has a check of its own
            known = argument in {*rules, *others} or (name, argument) in WITHOUT_RULE
            if is_number and not known:
                missing.append((name, argument))
    assert missing == []


def test_rules_and_their_words():
    assert whole(1, 3).wanted == 'an integer in [1, 3]' and whole(0).wanted == 'an integer >= 0'
    assert number().holds(10**400) and not number().holds(np.float32('nan'))
    assert number(0, 1, above=True).wanted == 'a number in (0, 1]'
    assert number(high=1, below=True).wanted == 'a number < 1'
    assert or_one_of(whole(1), None, 'all').wanted == 'an integer >= 1, or None or all'
    assert one_of('a', 'b').holds('a') and not one_of('a', 'b').holds(['a'])
    assert not or_one_of(whole(2), 1).holds(True)
    assert sequence('some', whole(1), 2).holds([1, 2]) and not sequence('', whole(1)).holds('12')


def test_arguments_of_any_form_are_checked():
    class Part:
        @check_arguments(a=whole(1), b=whole(1), c=whole(1))
        def __init__(self, a, b=0, **others):
            self.given = a, b, others

    assert Part(1).given == (1, 0, {})  # defaults are not checked
    assert Part(1, 2, c=3, d=0).given == (1, 2, dict(c=3, d=0))
    for arguments, options in (((0,), {}), ((1, 0), {}), ((1,), dict(b=0)), ((1,), dict(c=0))):
        with pytest.raises(ValueError, match='[abc] must be an integer >= 1, got 0'):
            Part(*arguments, **options)
    with pytest.raises(TypeError, match='__init__.*missing 1 required'):
        Part()
    with pytest.raises(AssertionError, match="no arguments .'x'"):
        check_arguments(x=whole(1))(lambda a: a)
