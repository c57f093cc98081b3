"""FSDP: shard weights, gradients and optimizer state across ranks."""

from __future__ import annotations

from .options import strategy_version
from .parameters import (
    full_state_dict,
    is_shard,
    local_part,
    original_shape,
    paired_parameters,
    plain_parameters,
    require_unsharded,
    total_norm,
    whole_networks,
)
from .strategy import CoTAPFSDPStrategy

__all__ = [
    'CoTAPFSDPStrategy',
    'full_state_dict',
    'is_shard',
    'local_part',
    'original_shape',
    'paired_parameters',
    'plain_parameters',
    'require_unsharded',
    'strategy_version',
    'total_norm',
    'whole_networks',
]
