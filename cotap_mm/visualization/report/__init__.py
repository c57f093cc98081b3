"""HTML reports with pictures and tables."""

from __future__ import annotations
