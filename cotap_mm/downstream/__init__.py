"""Head, data set and transform for the paper's protocols that MMSegmentation does not have.

Requires MMSegmentation; configs import this package with ``custom_imports``.
"""

from __future__ import annotations

from .bottleneck_head import BottleneckFCNHead
from .coco_stuff27 import COCOStuff27Dataset
from .random_resized_crop import RandomResizedCropSeg

__all__ = ['BottleneckFCNHead', 'COCOStuff27Dataset', 'RandomResizedCropSeg']
