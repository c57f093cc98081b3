"""Command lines: a module per command, with its options and its ``main``.

These modules import neither PyTorch nor MMEngine, so that ``--help`` and wrong command lines are
answered at once. What a command does is in :mod:`cotap_mm.commands`, which its ``main`` imports.
"""

from __future__ import annotations
