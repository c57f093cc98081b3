"""CoTAP post-pretraining of vision transformers as an OpenMMLab plugin."""
from . import compat  # noqa: F401  (checks versions and mends known breakages first)
from .version import __version__

__all__ = ['__version__']
