from __future__ import annotations

import pytest

from cotap_mm.ops.sampling import evenly_spaced


@pytest.mark.parametrize(
    'count, kept, wanted',
    [(10, 3, [0, 3, 6]), (3, 10, [0, 1, 2]), (5, 1, [0]), (4, 4, [0, 1, 2, 3])],
)
def test_indices_are_evenly_spaced(count, kept, wanted):
    assert evenly_spaced(count, kept) == wanted


def test_number_must_be_positive():
    with pytest.raises(ValueError, match='must be positive, got 0'):
        evenly_spaced(5, 0)
