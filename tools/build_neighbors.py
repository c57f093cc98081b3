"""Compute the nearest neighbors of each image with a frozen ViT, for drawing positives in training.

The same as ``cotap neighbors``; ``--help`` has the details.
"""

from __future__ import annotations

import early_stop  # noqa: F401  (before imports that take seconds)

from cotap_mm.cli.neighbors import main
from cotap_mm.command_line.tool import run_script

if __name__ == '__main__':
    run_script(main)
