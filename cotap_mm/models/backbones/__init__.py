"""Vision transformers."""

from __future__ import annotations

from .cotap_vit import CoTAPViT
from .dino_vit import DINOViT
from .lora import LoRAViT

__all__ = ['CoTAPViT', 'DINOViT', 'LoRAViT']
