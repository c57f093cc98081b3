"""From a config to a Runner that trains."""

from __future__ import annotations
