from __future__ import annotations

import pytest

from cotap_mm.ops.sampling import evenly_spaced


@pytest.mark.parametrize(
    'count, kept, wanted',
    [
        (10, 4, [0, 2, 5, 7]),
        (3, 3, [0, 1, 2]),
        (3, 9, [0, 1, 2]),
        (5, 1, [0]),
        (0, 2, []),
    ],
)
def test_evenly_spaced(count, kept, wanted):
    assert evenly_spaced(count, kept) == wanted


def test_at_least_one_is_kept():
    with pytest.raises(ValueError, match='must be positive, got 0'):
        evenly_spaced(5, 0)
