"""What MMSegmentation lacks for the paper's protocols.

Needs MMSegmentation; configs import it by ``custom_imports``.
"""

from __future__ import annotations

from .bottleneck_head import BottleneckFCNHead
from .coco_stuff27 import COCOStuff27Dataset
from .random_resized_crop import RandomResizedCropSeg

__all__ = ['BottleneckFCNHead', 'COCOStuff27Dataset', 'RandomResizedCropSeg']
