"""Vision transformers."""

from __future__ import annotations

from .cotap_vit import CoTAPViT
from .dino_vit import DINOViT

__all__ = ['CoTAPViT', 'DINOViT']
