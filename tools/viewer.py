"""Explore features in the browser: click a patch to see the similar patches in all images.

The same as ``cotap viewer``; ``--help`` has the details.
"""

from __future__ import annotations

import early_stop  # noqa: F401  (before imports that take seconds)

from cotap_mm.cli.viewer import main
from cotap_mm.command_line.tool import run_script

if __name__ == '__main__':
    run_script(main)
