"""Fast decoding of ordinary JPEGs, to the pixels of Pillow."""

from __future__ import annotations
