"""CoTAP post-pretraining of vision transformers as an OpenMMLab plugin.

::

    import cotap_mm

    run = cotap_mm.pretrain('photos', 'runs/a', iterations=2000)
    cls, patches = cotap_mm.load(run.checkpoint).encode('photo.jpg')
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import compat  # noqa: F401  (checks versions, applies workarounds)
from .version import __version__

if TYPE_CHECKING:  # each is imported when it is first used, since they need all models
    from .api.evaluate import compare, evaluate
    from .api.pretrain import pretrain
    from .api.visualize import visualize
    from .bridges.transformer import CoTAPTransformer
    from .embedding.embed import embed
    from .embedding.file import read_features
    from .encoders.load import load

#: Public name -> module that defines it.
_PUBLIC = {
    'CoTAPTransformer': 'bridges.transformer',
    'compare': 'api.evaluate',
    'embed': 'embedding.embed',
    'evaluate': 'api.evaluate',
    'load': 'encoders.load',
    'pretrain': 'api.pretrain',
    'read_features': 'embedding.file',
    'visualize': 'api.visualize',
}
__all__ = [
    'CoTAPTransformer',
    '__version__',
    'compare',
    'embed',
    'evaluate',
    'load',
    'pretrain',
    'read_features',
    'visualize',
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_PUBLIC[name]}'), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
