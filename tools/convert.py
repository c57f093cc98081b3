"""Convert weights of any supported source for another library.

The same as ``cotap convert``; ``--help`` has the details.
"""

from __future__ import annotations

import early_stop  # noqa: F401  (before imports that take seconds)

from cotap_mm.cli.convert import main
from cotap_mm.command_line.tool import run_script

if __name__ == '__main__':
    run_script(main)
