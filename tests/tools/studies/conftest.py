"""Put the folder of the studies on the path: they are scripts that import each other."""

from __future__ import annotations

import sys
from pathlib import Path

STUDIES = str(Path(__file__).resolve().parents[3] / 'tools' / 'studies')
if STUDIES not in sys.path:
    sys.path.append(STUDIES)
