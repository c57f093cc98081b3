"""Interactive viewer: a web page on which a click shows similar patches."""

from __future__ import annotations
