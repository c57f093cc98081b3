"""Load encoders with torch.hub.

    encoder = torch.hub.load('USER/cotap_mm', 'cotap', checkpoint='hf:USER/REPO')
    cls, patches = encoder.encode('photo.jpg')

With a clone of this repository: torch.hub.load('DIR', 'cotap', source='local', checkpoint=...).
"""

from __future__ import annotations

from typing import Any

#: Packages that torch.hub checks before it loads anything.
dependencies = [
    *('torch', 'torchvision', 'mmengine', 'mmcv', 'mmpretrain'),
    *('numpy', 'PIL', 'scipy', 'kornia'),
]


def cotap(checkpoint: str, **options: Any) -> Any:
    """Load a network as an encoder with ``encode(images) -> (cls, patches)``.

    Args:
        checkpoint (str): File, folder, URL, ``hf:USER/REPO`` or ``timm:NAME``; see
            :func:`cotap_mm.load`.
        **options: Further arguments of :func:`cotap_mm.load`, such as ``device``.

    Returns:
        Encoder: The encoder; its network is the attribute ``module``.
    """
    import cotap_mm

    return cotap_mm.load(checkpoint, **options)
