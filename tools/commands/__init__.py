"""What the tools do after they have parsed their command lines; imported by their ``main``."""

from __future__ import annotations
