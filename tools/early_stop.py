"""React to signals while a tool is importing, which takes seconds.

Imported by the tools before anything else; :mod:`cotap_mm.signals` takes over in ``main``. Nothing
happens where a tool is imported as a module.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def _stop(number: int, frame: Any) -> None:
    os.write(
        2,
        b'stopped by a signal with status 75. Nothing had to be saved; start again with '
        b'the same command\n',
    )
    os._exit(75)


_script = getattr(sys.modules['__main__'], '__file__', None) or ''
if os.path.dirname(os.path.abspath(_script)) == os.path.dirname(os.path.abspath(__file__)):
    for _name in ('SIGTERM', 'SIGUSR1'):
        if hasattr(signal, _name):
            signal.signal(getattr(signal, _name), _stop)
