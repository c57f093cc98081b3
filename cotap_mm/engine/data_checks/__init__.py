"""Check the data of a downstream run before it starts."""

from __future__ import annotations
