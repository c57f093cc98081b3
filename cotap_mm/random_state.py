"""Capture, restore and preserve the random number generators of this process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def capture_random_state() -> dict[str, Any]:
    """Copy the states of Python's, NumPy's and PyTorch's generators.

    Returns:
        dict: For :func:`restore_random_state`, in types that ``torch.load`` reads with
        ``weights_only=True``. ``cuda`` is the state of the device in use (reading those of all
        GPUs of a node is slow), or None without a GPU.
    """
    _, keys, position, has_gauss, gauss = np.random.get_state()
    version, numbers, next_gauss = random.getstate()
    return dict(
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        numpy=(
            torch.from_numpy(keys.astype(np.int64)),  # type: ignore[attr-defined]
            int(position),
            int(has_gauss),
            float(gauss),
        ),
        python=(version, torch.tensor(numbers), next_gauss),
    )


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`capture_random_state` has captured.

    Args:
        state (dict): May come from a checkpoint of a machine with or without a GPU.
    """
    torch.set_rng_state(state['torch'].cpu())
    if state['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())
    keys, *rest = state['numpy']
    np.random.set_state(('MT19937', keys.cpu().numpy().astype(np.uint32), *rest))
    version, numbers, next_gauss = state['python']
    random.setstate((version, tuple(numbers.tolist()), next_gauss))


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Restore the random states of this process when the context exits, also after an error."""
    state = capture_random_state()
    try:
        yield
    finally:
        restore_random_state(state)


def seed_from(*numbers: int) -> None:
    """Seed all generators of this process from several numbers.

    Args:
        *numbers (int): Such as a seed, a rank and a position in the data, >= 0.
    """
    parts = np.random.SeedSequence(numbers).generate_state(3)
    torch.manual_seed(int(parts[0]))
    np.random.seed(parts[1])
    random.seed(int(parts[2]))
