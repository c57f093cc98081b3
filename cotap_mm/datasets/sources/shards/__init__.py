"""Images in uncompressed tar shards (WebDataset format), on a disk or in an object store."""

from __future__ import annotations
