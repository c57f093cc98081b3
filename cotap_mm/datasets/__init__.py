"""Images, their neighbours, and crops; importing it registers all of them."""
from .image_source import BadImage, ImageList, read_image
from .neighbor_pairs import NeighborPairs
from .neighbor_search import build_neighbors, ensure_neighbors
from .neighbors import load_neighbors, save_neighbors
from .toy_scenes import ToyScenes
from .transforms import MultiCrop

__all__ = [
    'BadImage', 'ImageList', 'MultiCrop', 'NeighborPairs', 'ToyScenes', 'build_neighbors',
    'ensure_neighbors', 'load_neighbors', 'read_image', 'save_neighbors'
]
