from __future__ import annotations

import pytest
import torch

from cotap_mm.ops import sampling
from cotap_mm.ops.sampling import copy_together, evenly_spaced


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


def test_packed_tensors_keep_values_types_and_shapes():
    values = [
        torch.rand(2, 3).T,
        torch.tensor([True, False, True]),
        torch.tensor(-5),
        torch.rand(5, dtype=torch.float64)[::2],
        torch.empty(0, 4, dtype=torch.int64),
        torch.rand(3).half(),
    ]
    values.append(values[0])
    for before, after in zip(values, sampling._unpack(sampling._pack(values), values)):
        assert after.dtype == before.dtype and torch.equal(after, before)


def test_numbers_for_a_device_share_one_buffer():
    here, there = torch.rand(2), torch.rand(3, device='meta')
    numbers = dict(a=dict(x=here, y=there), b=dict(x=torch.arange(4)))
    same = copy_together(numbers, torch.device('cpu'))
    assert same['a']['x'] is here and same['a']['y'] is there
    moved = copy_together(numbers, torch.device('meta'))
    assert moved['a']['y'] is there and moved['a']['x'].dtype == torch.float32
    one, other = (moved[owner]['x'].untyped_storage() for owner in 'ab')
    assert one._cdata == other._cdata and one.nbytes() == 2 * 4 + 4 * 8
