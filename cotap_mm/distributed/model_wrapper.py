"""Access the model inside a wrapper such as DistributedDataParallel."""

from __future__ import annotations

from mmengine.model import is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside a wrapper for several processes, else the model itself.

    Args:
        model (nn.Module): A plain model, or one wrapped by e.g. DistributedDataParallel or
            FullyShardedDataParallel.
    """
    return model.module if is_model_wrapper(model) else model
