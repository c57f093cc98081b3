"""Where one process fails, the others end too, with its sentence, instead of waiting for it."""

from __future__ import annotations

from cotap_mm.rank_watch import ended_together

__all__ = ['ended_together']
