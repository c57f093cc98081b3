"""Modes of the interactive viewer: what each one shows of the chosen images."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Optional

import numpy as np

from cotap_mm.visualization.errors import NotAvailable
from cotap_mm.visualization.figures.assignments import assign_patches, assignment_overlay
from cotap_mm.visualization.figures.canvas import Pixels
from cotap_mm.visualization.figures.clusters import (
    cluster_overlay,
    distinct_colors,
    joint_clusters,
    match_clusters,
)
from cotap_mm.visualization.figures.grid import Scale
from cotap_mm.visualization.figures.norms import NORMS_NOTE, feature_norms, norm_pixels
from cotap_mm.visualization.figures.overlays import foreground_overlay
from cotap_mm.visualization.figures.pca import basis_note, shared_pca_maps
from cotap_mm.visualization.figures.prototypes import attention_overlay
from cotap_mm.visualization.figures.similarity import similarity_panels

from .cached_features import CachedFeatures
from .sheet import Point


class Request(NamedTuple):
    """What is to be drawn.

    Attributes:
        chosen (list): Indices of the shown images.
        point (Point): The chosen patch.
        number (int): Index of the prototype.
        count (int): Number of clusters.
    """

    chosen: list[int]
    point: Point
    number: int
    count: int


class Content(NamedTuple):
    """Pictures of one mode.

    Attributes:
        rows (dict): Name of each encoder -> one picture per image, uint8, each (h, w, 3).
        note (str): Caption.
        scales (dict): Name of a row -> its color scale.
        legend (dict): Name -> color, for all rows.
        marks (dict): Name of a row -> patches to frame, bool, shape (B, h, w).
    """

    rows: dict[str, list[Pixels]]
    note: str
    scales: dict[str, Scale] = {}
    legend: dict[str, Any] = {}
    marks: dict[str, np.ndarray] = {}


def similarity(features: CachedFeatures, request: Request) -> Content:
    """Cosine similarity of all patches to the chosen one."""
    rows, scales = {}, {}
    for name in features.encoders:
        maps = features.maps(name, request.chosen)  # (B, C, h, w), of unit length
        rows[name], scales[name] = similarity_panels(
            list(maps),
            request.point.slot,
            request.point.patch(maps.shape[2:]),
            normalized=True,
        )
    return Content(
        rows, 'Cosine similarity to the framed patch; each row has its own scale.', scales
    )


def components(features: CachedFeatures, request: Request) -> Content:
    """Principal components of the features of the shown images, with one basis if possible."""
    maps = {name: features.maps(name, request.chosen) for name in features.encoders}
    drawn = features.once(
        (tuple(maps), tuple(request.chosen), 'components'),
        lambda: list(shared_pca_maps(maps).values()),
    )
    note = basis_note({name: own.shape[1] for name, own in maps.items()})
    return Content(
        dict(zip(maps, drawn)),
        'The first three principal components of the features of the shown images as red, '
        f'green and blue: within a row, equal colors mean similar features. {note}'.rstrip(),
    )


def clusters(features: CachedFeatures, request: Request) -> Content:
    """Clusters of the patches of the shown images."""
    rows: dict[str, list[Pixels]] = {}
    first: Optional[np.ndarray] = None
    for name in features.encoders:
        own = features.once(
            (name, tuple(request.chosen), 'clusters', request.count),
            lambda name=name: joint_clusters(features.maps(name, request.chosen), request.count),
        )
        own = own if first is None else match_clusters(own, first)
        first = own if first is None else first
        rows[name] = [
            cluster_overlay(features.photo(i), each) for i, each in zip(request.chosen, own)
        ]
    colors = distinct_colors(request.count)
    return Content(
        rows,
        f'{request.count} clusters of patches (k-means over the shown images); the colors of the '
        'rows are matched so that as many patches as possible agree.',
        legend={str(index): color for index, color in enumerate(colors)},
    )


def assignments(features: CachedFeatures, request: Request) -> Content:
    """The prototype of each patch."""
    maps, skipped = features.supported('prototype_attention', request.chosen)
    rows, legend, numbers = {}, {}, []
    for name, attention in maps.items():
        weights = attention.mean(dim=1)  # (B, heads, h, w, M) -> (B, h, w, M)
        found = assign_patches(weights)
        rows[name] = [
            assignment_overlay(features.photo(i), labels, len(found.prototypes))
            for i, labels in zip(request.chosen, found.labels)
        ]
        prefix = f'{name}: ' if len(maps) > 1 else ''
        legend.update({f'{prefix}{text}': color for text, color in found.legend.items()})
        numbers.append(f'{name}: {found.summary(weights.shape[-1])}')
    return Content(
        rows,
        'Each patch has the color of the prototype that stands out in its attention (weight '
        'relative to the mean of the prototype over the shown images). '
        f'{"; ".join(numbers)}.{skipped}',
        legend=legend,
    )


def prototypes(features: CachedFeatures, request: Request) -> Content:
    """Attention of the patches to one prototype."""
    maps, skipped = features.supported('prototype_attention', request.chosen)
    rows = {}
    for name, attention in maps.items():
        weights = attention.mean(dim=1)  # (B, heads, h, w, M) -> (B, h, w, M)
        if request.number >= weights.shape[-1]:
            raise NotAvailable(
                f'{name} has prototypes 0..{weights.shape[-1] - 1}, got {request.number}'
            )
        rows[name] = _overlays(features, request, weights[..., request.number].numpy())
    return Content(
        rows,
        f'Attention of each patch to prototype {request.number} of the object-aware filter, mean '
        f'over heads; bright is strong.{skipped}',
    )


def attention(features: CachedFeatures, request: Request) -> Content:
    """Attention of the CLS token."""
    maps, skipped = features.supported('cls_attention', request.chosen)
    rows = {
        name: _overlays(features, request, weights.mean(dim=1).numpy())
        for name, weights in maps.items()
    }
    return Content(
        rows,
        'Attention of the CLS token in the last block, mean over heads; bright is '
        f'strong.{skipped}',
    )


def foreground(features: CachedFeatures, request: Request) -> Content:
    """The foreground of pre-training."""
    maps, skipped = features.supported('foreground', request.chosen)
    rows = {
        name: [foreground_overlay(features.photo(i), m) for i, m in zip(request.chosen, masks)]
        for name, masks in maps.items()
    }
    return Content(
        rows,
        'In color: the smallest set of patches that holds 60 % of the attention of the CLS '
        f'token.{skipped}',
    )


def norms(features: CachedFeatures, request: Request) -> Content:
    """Norms of the patch tokens, with outliers framed."""
    rows, scales, marks, numbers = {}, {}, {}, []
    for name in features.encoders:
        found = feature_norms(features.maps(name, request.chosen, 'tokens'))
        rows[name], scales[name] = norm_pixels(found)
        marks[name] = found.outliers
        numbers.append(f'{name}: {found.summary}')
    return Content(rows, f'{NORMS_NOTE} {"; ".join(numbers)}.', scales, marks=marks)


def _overlays(features: CachedFeatures, request: Request, maps: np.ndarray) -> list[Pixels]:
    low, high = float(maps.min()), float(maps.max())
    return [
        attention_overlay(features.photo(i), own, low, high) for i, own in zip(request.chosen, maps)
    ]


#: Modes in the order of the page; keys 1 to 8 choose them.
MODES: dict[str, Callable[[CachedFeatures, Request], Content]] = dict(
    similarity=similarity,
    components=components,
    clusters=clusters,
    assignments=assignments,
    prototypes=prototypes,
    attention=attention,
    foreground=foreground,
    norms=norms,
)
NEEDS_PROTOTYPES = ('assignments', 'prototypes')
