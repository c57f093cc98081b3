"""Indices are evenly spaced, distinct and within range."""

from __future__ import annotations

import pytest

from cotap_mm.ops.indices import evenly_spaced


@pytest.mark.parametrize(
    'count, kept, expected',
    [
        (10, 5, [0, 2, 4, 6, 8]),
        (10, 4, [0, 2, 5, 7]),
        (3, 8, [0, 1, 2]),
        (7, 7, list(range(7))),
        (5, 1, [0]),
        (5, 0, []),
        (0, 3, []),
    ],
)
def test_evenly_spaced(count, kept, expected):
    assert evenly_spaced(count, kept) == expected


@pytest.mark.parametrize('count', [1, 63, 64, 65, 1000])
def test_gaps_differ_by_at_most_one(count):
    indices = evenly_spaced(count, 64)
    gaps = {after - before for before, after in zip(indices, [*indices[1:], count])}
    assert len(indices) == min(count, 64) and max(gaps) - min(gaps) <= 1
