"""Pack a folder of images into one file, for file systems that are slow with millions of files.

The same as ``cotap pack``; ``--help`` has the details.
"""

from __future__ import annotations

import early_stop  # noqa: F401  (before imports that take seconds)

from cotap_mm.cli.pack import main
from cotap_mm.command_line.tool import run_script

if __name__ == '__main__':
    run_script(main)
