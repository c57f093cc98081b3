"""Features in the interfaces of other libraries."""

from __future__ import annotations
