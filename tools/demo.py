"""Train CoTAP on toy scenes, evaluate it, and write a report with pictures.

The same as ``cotap demo``; ``--help`` has the details.
"""

from __future__ import annotations

import early_stop  # noqa: F401  (before imports that take seconds)

from cotap_mm.cli.demo import main
from cotap_mm.command_line.tool import run_script

if __name__ == '__main__':
    run_script(main)
