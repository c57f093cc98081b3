"""CoTAP post-pretraining of vision transformers as an OpenMMLab plugin."""

from __future__ import annotations

from typing import Any

from . import compat  # noqa: F401  (checks versions, applies workarounds)
from .version import __version__

__all__ = ['__version__', 'load']


def __getattr__(name: str) -> Any:
    """Import ``cotap_mm.load`` on first use, since it needs all models."""
    if name == 'load':
        from .encoders.load import load

        return load
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
