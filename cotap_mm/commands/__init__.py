"""What the commands do once their command lines are parsed: see :mod:`cotap_mm.cli`."""

from __future__ import annotations
