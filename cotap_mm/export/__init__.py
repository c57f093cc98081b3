"""Write weights: for other libraries, as graphs, and for publication."""

from __future__ import annotations

from .convert import TARGETS, convert
from .hub import publish_folder, push
from .publish import publish

__all__ = ['TARGETS', 'convert', 'publish', 'publish_folder', 'push']
