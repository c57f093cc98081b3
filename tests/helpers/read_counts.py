"""Counts of how often a checkpoint is read and detected."""

from __future__ import annotations

from cotap_mm.weights import checkpoint, reading


def count_reads(monkeypatch) -> dict[str, int]:
    """Count how often a file is read, its ViT located, and its tensors renamed from now on."""
    counts = dict(read=0, detected=0, renamed=0)

    def count(module, name, key):
        function = getattr(module, name)

        def counted(*args, **kwargs):
            counts[key] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    count(reading, '_read_file', 'read')
    count(checkpoint, 'detect_vit', 'detected')
    count(checkpoint, 'rename', 'renamed')
    return counts
