"""How the command-line tools read arguments and how they end."""

from __future__ import annotations
