from __future__ import annotations

from .load_image import LoadImage
from .multi_crop import MultiCrop

__all__ = ['LoadImage', 'MultiCrop']
