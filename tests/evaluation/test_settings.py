"""All settings of all protocols are checked against their annotations."""

from __future__ import annotations

import math
from typing import get_args, get_origin

import pytest
import torch
from mmengine.config import DictAction

from cotap_mm.evaluation.evaluate import PROTOCOLS, check_options, settings_of
from cotap_mm.evaluation.settings import RANGES, types_of

ALL = [(name, key) for name in PROTOCOLS for key in settings_of(name)]


def parsed(text):
    """Parse a value like the command line does."""
    return DictAction._parse_iterable(text)


def kinds(protocol, key):
    """Plain types that a setting accepts."""
    hint = types_of(PROTOCOLS[protocol].measure)[key]
    found = set()
    todo = [hint]
    while todo:
        each = todo.pop()
        todo += [item for item in get_args(each) if item is not Ellipsis]
        found.add(get_origin(each) or each)
    return found


#: Invalid texts, unless a setting accepts one of these types.
WRONG = [
    ('many', {str}),
    ('yes', {str}),
    ('None', {type(None)}),
    ('True', {bool}),
    ('nan', set()),
    ('inf', set()),
    ('1,many', set()),
    ('[]', set()),
    ('(1,2,3)', 'several'),
    ('[[1,2],3]', set()),
    ('-1', {str}),
    ('0.5', {float}),
    ('3', {int, float}),
]


@pytest.mark.parametrize('protocol, key', ALL)
def test_all_settings_reject_wrong_types(protocol, key):
    allowed = kinds(protocol, key)
    several = any(getattr(kind, '__name__', '') == 'Sequence' for kind in allowed)
    assert settings_of(protocol)[key] is None or check_options(
        protocol, {key: settings_of(protocol)[key]}
    )  # the default is valid
    count = 0
    for text, taken in WRONG:
        if taken == 'several' and several or taken != 'several' and taken & allowed:
            continue
        with pytest.raises(ValueError) as found:
            check_options(protocol, {key: parsed(text)})
        message = str(found.value)
        assert message.startswith(f'{key} of {protocol} must be ') and '\n' not in message, text
        count += 1
    assert count >= 5


def test_every_number_has_a_range():
    numbers = {key for name, key in ALL if kinds(name, key) & {int, float}}
    assert numbers == set(RANGES)


@pytest.mark.parametrize(
    'protocol, key, given, wanted',
    [
        ('overclustering', 'num_clusters', '5', (5,)),
        ('overclustering', 'num_clusters', '[5,6]', (5, 6)),
        ('overclustering', 'seeds', '0', (0,)),
        ('foreground', 'foreground_classes', '3', (3,)),
        ('foreground', 'foreground_classes', 'None', None),
        ('knn', 'grid_temperature', '1', (1.0,)),
        ('dense-retrieval', 'image_size', '[32,64]', (32, 64)),
        ('dense-retrieval', 'image_size', '32', 32),
        ('dense-retrieval', 'memory_size', '1e3', 1000),
        ('dense-retrieval', 'temperature', '1', 1.0),
        ('dense-retrieval', 'device', 'cpu', torch.device('cpu')),
        ('dispersion', 'layers', 'false', False),
        ('video', 'radius', 'None', None),
    ],
)
def test_valid_values_are_converted(protocol, key, given, wanted):
    found = check_options(protocol, {key: parsed(given)})[key]
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize(
    'protocol, options, message',
    [
        ('knn', dict(temprature=1), 'knn has no option temprature; did you mean temperature'),
        (
            'knn',
            dict(k='a', grid_k='b'),
            "k of knn must be an integer, got 'a'; grid_k of knn must be "
            "one or several integers as A,B, got 'b'",
        ),
        (
            'dense-retrieval',
            dict(image_size=[1, 2, 3]),
            'an integer or 2 integers as .A,B. or None',
        ),
        (
            'dense-retrieval',
            dict(device='gpu'),
            'device of dense-retrieval must be a name or a device',
        ),
        ('dense-retrieval', dict(k=0), 'k of dense-retrieval must be at least 1 and .*,000, got 0'),
        ('foreground', dict(mass=1.5), 'mass of foreground must be more than 0 and at most 1'),
        ('correspondence', dict(mutual=1), 'must be True or False, got 1'),
    ],
)
def test_error_messages(protocol, options, message):
    with pytest.raises(ValueError, match=message):
        check_options(protocol, options)


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_all_numbers_have_limits(protocol):
    """NaN, infinity and negative numbers are rejected for all settings."""
    for key in settings_of(protocol):
        for value in (math.nan, math.inf, -1, (1, math.nan)):
            with pytest.raises(ValueError, match=f'{key} of {protocol} must be .*, got '):
                check_options(protocol, {key: value})
