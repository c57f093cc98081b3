"""One evaluation protocol a file."""

from __future__ import annotations
