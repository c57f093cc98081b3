"""Draw inputs, features, prototypes and training curves; functions return arrays."""

from __future__ import annotations

from cotap_mm.encoders.sliding_window import encode_large

from .figures.canvas import colorize
from .figures.clusters import cluster_overlay, joint_clusters, match_clusters
from .figures.grid import Panel, Row, Scale, image_grid, picture_sheet, side_by_side
from .figures.overlays import class_legend, crops_with_boxes, foreground_overlay, label_map
from .figures.pca import pca_maps
from .figures.projection import class_scatter, labeled_patches, project
from .figures.prototypes import attention_overlay, prototype_gallery
from .figures.similarity import similarity_figure, similarity_map
from .figures.training_curves import curves, read_scalars
from .report.html import Report
from .report.image_set import ImageSet, encode_images, read_images

__all__ = [
    'ImageSet',
    'Panel',
    'Report',
    'Row',
    'Scale',
    'attention_overlay',
    'class_legend',
    'class_scatter',
    'cluster_overlay',
    'colorize',
    'crops_with_boxes',
    'curves',
    'encode_images',
    'encode_large',
    'foreground_overlay',
    'image_grid',
    'joint_clusters',
    'label_map',
    'labeled_patches',
    'match_clusters',
    'pca_maps',
    'picture_sheet',
    'project',
    'prototype_gallery',
    'read_images',
    'read_scalars',
    'side_by_side',
    'similarity_figure',
    'similarity_map',
]
