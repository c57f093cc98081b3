"""``python -m cotap_mm``: the same as ``cotap``."""

from __future__ import annotations

from cotap_mm.cli.main import cotap

if __name__ == '__main__':
    cotap()
