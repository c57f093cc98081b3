"""Hash of the weights of a network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of all weights and their names, sorted by name.

    It does not change when the same weights are saved again, which can change the hash of the
    file (:func:`cotap_mm.files.atomic_write.checksum`).

    Args:
        weights (Mapping[str, Tensor]): A state dict, on any device.

    Returns:
        str: 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        # A copy, since FSDP frees its memory, which numpy would lock.
        copied = value.detach().to('cpu', copy=True)
        digest.update(copied.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
