"""Facts about this installation and machine, and what is wrong with them: ``cotap doctor``.

Nothing here imports PyTorch, MMEngine or another library: it has to work where those do not.
"""

from __future__ import annotations
