"""Write features of many images to one file: resumable, with ids and provenance."""

from __future__ import annotations
