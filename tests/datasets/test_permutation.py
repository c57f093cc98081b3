"""A permutation that is computed number by number: complete, seeded, uniform, and random access."""

from __future__ import annotations

import numpy as np
import pytest

from cotap_mm.datasets.permutation import FeistelPermutation

ORDER = [4, 2, 9, 7, 3, 0, 8, 6, 5, 1]
LARGE = [427440115338, 416001667556, 367216167451]


def elements(size, *seed):
    return FeistelPermutation(size, seed)[np.arange(size)]


@pytest.mark.parametrize('size', [1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 65, 1021, 4096, 4097, 100_003])
def test_it_is_a_permutation(size):
    for seed in [(0, 0), (3, 1), (2**64 - 1, 5)]:
        found = elements(size, *seed)
        assert found.dtype == np.int64
        assert np.array_equal(np.bincount(found, minlength=size), np.ones(size))


def test_any_position_and_shape():
    shuffled = FeistelPermutation(1000, (4, 2))
    whole = shuffled[np.arange(1000)]
    chosen = np.array([[999, 0, 7], [7, 500, 3]])
    assert np.array_equal(shuffled[chosen], whole[chosen])
    assert shuffled[np.array([], int)].shape == (0,) and len(shuffled) == 1000
    assert int(shuffled[12]) == whole[12]


def test_the_order_is_part_of_a_run_and_must_not_change():
    assert elements(10, 3, 0).tolist() == ORDER
    large = FeistelPermutation(10**12, (3, 0))[np.arange(3)]
    assert large.tolist() == LARGE


def test_seeds_and_passes_differ():
    orders = [elements(1000, seed, count) for seed in range(4) for count in range(4)]
    same = [int((a == b).sum()) for i, a in enumerate(orders) for b in orders[:i]]
    # Of two random permutations, one element is expected to be in the same place.
    assert max(same) < 9 and 0.5 < np.mean(same) < 1.5


def chi_square(counts):
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize('size', [9973, 16384, 40_000])
def test_blocks_of_positions_get_elements_from_everywhere(size):
    """Chi-square with 31^2 degrees of freedom: 961 +- 44; less for a permutation, never more."""
    for seed in range(3):
        found = elements(size, seed, 0)
        counts = np.histogram2d(np.arange(size), found, bins=32)[0]
        assert 750 < chi_square(counts) < 1150
        # Neighboring positions: the step between their elements is anything, too.
        steps = np.histogram((found[1:] - found[:-1]) % size, bins=64)[0]
        assert chi_square(steps) < 63 + 5 * np.sqrt(2 * 63)


def test_the_check_of_blocks_can_fail():
    counts = np.histogram2d(np.arange(9973), np.arange(9973) * 7 % 9973, bins=32)[0]
    assert not 750 < chi_square(counts) < 1150


def test_bad_sizes():
    for size in (0, -1, 2**62 + 1):
        with pytest.raises(ValueError, match=r'from 1 to 2\^62'):
            FeistelPermutation(size, (0,))
