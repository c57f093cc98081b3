"""Images, their neighbours, and crops; importing it registers all of them."""

from __future__ import annotations

from .neighbor_pairs import NeighborPairs
from .neighbors.file import load_neighbors, save_neighbors
from .neighbors.search import build_neighbors, search_neighbors
from .samplers import Visit, VisitSampler
from .sources.files import BadImage, ImageList, read_image
from .sources.packed import PackedImages, image_source, open_images, pack_images
from .toy.scenes import ToyScenes
from .transforms import LoadImage, MultiCrop
from .workers import start_worker

__all__ = [
    'BadImage',
    'ImageList',
    'LoadImage',
    'MultiCrop',
    'NeighborPairs',
    'PackedImages',
    'ToyScenes',
    'Visit',
    'VisitSampler',
    'build_neighbors',
    'image_source',
    'load_neighbors',
    'open_images',
    'pack_images',
    'read_image',
    'save_neighbors',
    'search_neighbors',
    'start_worker',
]
