"""Images, their neighbours, and crops; importing it registers all of them."""

from __future__ import annotations

from .global_features import GlobalEncoder
from .image_source import BadImage, ImageList, read_image
from .neighbor_pairs import NeighborPairs
from .neighbor_search import build_neighbors, ensure_neighbors, search_neighbors
from .neighbors import load_neighbors, save_neighbors
from .packed_images import PackedImages, image_source, open_images, pack_images
from .samplers import Visit, VisitSampler
from .toy_scenes import ToyScenes
from .transforms import LoadImage, MultiCrop
from .workers import start_worker

__all__ = [
    'BadImage',
    'GlobalEncoder',
    'ImageList',
    'LoadImage',
    'MultiCrop',
    'NeighborPairs',
    'PackedImages',
    'ToyScenes',
    'Visit',
    'VisitSampler',
    'build_neighbors',
    'ensure_neighbors',
    'image_source',
    'load_neighbors',
    'open_images',
    'pack_images',
    'read_image',
    'save_neighbors',
    'search_neighbors',
    'start_worker',
]
