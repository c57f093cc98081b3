"""Look at images and machine, and propose a training: ``cotap check``."""

from __future__ import annotations
