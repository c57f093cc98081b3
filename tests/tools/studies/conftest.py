"""The studies are scripts that import their neighbors, as Python does for scripts."""

from __future__ import annotations

import sys
from pathlib import Path

STUDIES = str(Path(__file__).resolve().parents[3] / 'tools' / 'studies')
if STUDIES not in sys.path:
    sys.path.append(STUDIES)
