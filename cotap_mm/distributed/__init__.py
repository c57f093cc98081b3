"""Everything that knows of ranks: collectives, rendezvous, failures, FSDP."""

from __future__ import annotations
