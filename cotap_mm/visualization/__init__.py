"""Pictures of inputs, features, prototypes and runs; functions that return arrays."""
from .canvas import colorize, image_grid, side_by_side
from .features import pca_maps, similarity_figure, similarity_map
from .prototypes import attention_overlay, prototype_gallery
from .report import Report
from .scenes import class_legend, crops_with_boxes, foreground_overlay, label_map
from .training_curves import curves, read_scalars

__all__ = [
    'Report', 'attention_overlay', 'class_legend', 'colorize', 'crops_with_boxes', 'curves',
    'foreground_overlay', 'image_grid', 'label_map', 'pca_maps', 'prototype_gallery',
    'read_scalars', 'side_by_side', 'similarity_figure', 'similarity_map'
]
