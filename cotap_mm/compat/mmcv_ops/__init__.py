"""Stand-in for MMCV's compiled operators, which the package mmcv-lite lacks.

``finder`` makes ``import mmcv._ext`` find ``extension``, whose functions have the names and
arguments of the compiled ones and are written with PyTorch and torchvision. A compiled MMCV is
used untouched. Importing this package imports neither MMCV nor torchvision.
"""

from __future__ import annotations
