"""A pseudorandom permutation that is computed number by number, without being stored."""

from __future__ import annotations

import numpy as np

_ROUNDS = 10
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class FeistelPermutation:
    """Seeded permutation of 0, ..., size - 1 with constant memory and access to any position.

    A Feistel network permutes the smallest range of 2^b numbers that holds all, less than twice as
    many. Numbers beyond the size are permuted again until they are within it (cycle walking),
    which is a permutation, too. The round function is the finalizer of SplitMix64.

    Source: Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002, Sec. 4 and 5;
    SplitMix64: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.

    Args:
        size (int): Number of elements, at least 1 and at most 2^62.
        seed (tuple[int, ...]): Non-negative integers; other ones give another permutation.
    """

    def __init__(self, size: int, seed: tuple[int, ...]) -> None:
        if not 1 <= size <= 2**62:
            raise ValueError(f'the size of a permutation must be from 1 to 2^62, got {size}')
        self.size = size
        bits = (size - 1).bit_length()
        self._low_bits = np.uint64((bits + 1) // 2)
        self._low = np.uint64((1 << (bits + 1) // 2) - 1)
        self._high = np.uint64((1 << bits // 2) - 1)
        self._keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Elements at some positions.

        Args:
            positions (np.ndarray): Integers from 0 to size - 1, any shape.

        Returns:
            np.ndarray: Integers from 0 to size - 1, same shape, int64.
        """
        values = self._permute(np.asarray(positions, np.uint64).reshape(-1))
        waiting = np.flatnonzero(values >= self.size)
        while len(waiting):
            values[waiting] = self._permute(values[waiting])
            waiting = waiting[values[waiting] >= self.size]
        return values.astype(np.int64).reshape(np.shape(positions))

    def _permute(self, values: np.ndarray) -> np.ndarray:
        """Permute the range of 2^b numbers; each round changes one half by the other one."""
        high, low = values >> self._low_bits, values & self._low
        for number, key in enumerate(self._keys):
            if number % 2:
                high ^= _mix(low, key) & self._high
            else:
                low ^= _mix(high, key) & self._low
        return (high << self._low_bits) | low


def _mix(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """Hash of integers modulo 2^64."""
    mixed = (values ^ key) * _GOLDEN
    mixed ^= mixed >> np.uint64(30)
    mixed *= _FIRST
    mixed ^= mixed >> np.uint64(27)
    mixed *= _SECOND
    return mixed ^ (mixed >> np.uint64(31))
