"""Image sources, neighbor files and training samples; importing it registers the classes."""

from __future__ import annotations

from .collate import collate_samples
from .neighbor_pairs import NeighborPairs
from .neighbors.file import load_neighbors, open_neighbors, save_neighbors
from .neighbors.options import SearchOptions
from .neighbors.search import build_neighbors, search_neighbors
from .samplers import Visit, VisitSampler
from .sources.decoding import BadImage, read_image
from .sources.files import ImageList
from .sources.open import image_source, open_images
from .sources.packed import PackedImages, pack_images
from .sources.protocol import ImageSource
from .sources.shards.images import ShardedImages
from .sources.shards.pack import pack_shards
from .toy.folder import write_toy_scenes
from .toy.scenes import ToyScenes
from .training_sample import TrainingSample
from .transforms import LoadImage, MultiCrop
from .workers import start_worker

__all__ = [
    'BadImage',
    'ImageList',
    'ImageSource',
    'LoadImage',
    'MultiCrop',
    'NeighborPairs',
    'PackedImages',
    'SearchOptions',
    'ShardedImages',
    'ToyScenes',
    'TrainingSample',
    'Visit',
    'VisitSampler',
    'build_neighbors',
    'collate_samples',
    'image_source',
    'load_neighbors',
    'open_images',
    'open_neighbors',
    'pack_images',
    'pack_shards',
    'read_image',
    'save_neighbors',
    'search_neighbors',
    'start_worker',
    'write_toy_scenes',
]
