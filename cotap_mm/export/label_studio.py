"""Pre-annotations for Label Studio: segments of a network as polygons that people correct."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from cotap_mm.version import __version__

_RESOLUTION = 1024  # pixels of the longer side in which contours are traced, at least


def label_studio_config(names: Sequence[str]) -> str:
    """Return the labeling interface of a project that shows the pre-annotations.

    Args:
        names (Sequence[str]): Names of the labels.

    Returns:
        str: XML for Settings > Labeling Interface > Code.
    """
    # Escaped by hand, since the standard library has no writer of attributes alone.
    table = str.maketrans({'&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;'})
    labels = ''.join(f'<Label value="{name.translate(table)}"/>' for name in names)
    return (
        '<View><Image name="image" value="$image" zoom="true"/>'
        f'<PolygonLabels name="label" toName="image">{labels}</PolygonLabels></View>'
    )


def label_studio_task(
    labels: np.ndarray, image: str, names: Sequence[str], min_area: float = 0.001
) -> dict[str, Any]:
    """Convert a label map of an image to a task of Label Studio with one polygon per segment.

    The label map may have any resolution, such as one label per patch, since Label Studio uses
    percent of the image. Holes are filled.

    Args:
        labels (np.ndarray): Index of a name for each pixel or patch, shape (h, w), integers;
            other values, such as -1 or 255, are not annotated.
        image (str): What Label Studio shows: a URL, or ``/data/local-files/?d=PATH``.
        names (Sequence[str]): Names of the labels, as in :func:`label_studio_config`.
        min_area (float): Smallest segment, as a share of the image, in [0, 1). Defaults to 0.001.

    Returns:
        dict: One element of the JSON list that Label Studio imports.

    Raises:
        ValueError: If the label map is not a 2D array of integers.
    """
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f'labels must be integers of shape (h, w), got {labels.dtype} {labels.shape}'
        )
    # Contours connect the centers of pixels, so patches are enlarged to many pixels.
    scale = -(-_RESOLUTION // max(labels.shape))
    height, width = (scale * side for side in labels.shape)
    results = []
    for index, name in enumerate(names):
        mask = np.kron((labels == index).astype(np.uint8), np.ones((scale, scale), np.uint8))
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        for contour in contours:
            if cv2.contourArea(contour) < min_area * mask.size or len(contour) < 3:
                continue
            points = (contour[:, 0] + 0.5) / (width, height) * 100
            value = dict(points=np.round(points, 3).tolist(), polygonlabels=[name], closed=True)
            results.append(
                dict(
                    id=f'{index}-{len(results)}',
                    type='polygonlabels',
                    from_name='label',
                    to_name='image',
                    value=value,
                )
            )
    prediction = dict(model_version=f'cotap_mm {__version__}', result=results)
    return dict(data=dict(image=image), predictions=[prediction])
