"""An embedded data set of textured objects."""

from __future__ import annotations
