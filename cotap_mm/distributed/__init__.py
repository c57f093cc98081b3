"""Distributed runs: collectives, rendezvous, rank failures, FSDP."""

from __future__ import annotations
