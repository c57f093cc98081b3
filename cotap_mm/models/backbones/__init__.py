from .dino_vit import DINOViT

__all__ = ['DINOViT']
