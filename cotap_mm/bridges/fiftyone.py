"""Features for FiftyOne, which searches and plots images by them."""

from __future__ import annotations

from typing import Any, Optional, Union

import numpy as np
import torch

from cotap_mm.encoders.choose import AnyEncoder, as_encoder
from cotap_mm.encoders.images import Size


def add_to_fiftyone(
    samples: Any,
    encoder: AnyEncoder,
    field: str = 'cotap',
    *,
    size: Size = 224,
    batch_size: int = 32,
    device: Optional[Union[str, torch.device]] = None,
    progress: bool = True,
    **options: Any,
) -> np.ndarray:
    """Compute the CLS feature of each image of a FiftyOne data set and store it in a field.

    ::

        add_to_fiftyone(dataset, 'runs/a/iter_2000.pth')
        fiftyone.brain.compute_similarity(dataset, embeddings='cotap')
        fiftyone.brain.compute_visualization(dataset, embeddings='cotap')

    Args:
        samples: ``fiftyone.Dataset`` or view of images.
        encoder (Encoder | str | Path | dict): An encoder, or what :func:`cotap_mm.load` accepts.
        field (str): Field of the samples. Defaults to ``'cotap'``.
        size (int | tuple): Size to which all images are resized, in pixels. Defaults to 224.
        batch_size (int): Images per forward pass. Defaults to 32.
        device (str | torch.device, optional): Defaults to a GPU if there is one.
        progress (bool): Show the progress. Defaults to True.
        **options: Further arguments of :func:`cotap_mm.load`.

    Returns:
        np.ndarray: The features, shape (N, C), float32.

    Raises:
        BadImage: If an image cannot be decoded.
        ValueError: If there are no images.
    """
    loaded = as_encoder(encoder, device, **options)
    features = loaded.encode(samples.values('filepath'), size, batch_size, progress).cls
    array = features.cpu().numpy()
    samples.set_values(field, list(array))
    return array
