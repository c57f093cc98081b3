"""Sections of a report on any encoders: what the features of some images look like."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from torch import Tensor

from cotap_mm.visualization.figures.canvas import Pixels, colorize, frame_patch
from cotap_mm.visualization.figures.clusters import (
    cluster_overlay,
    distinct_colors,
    draw_borders,
    joint_clusters,
    match_clusters,
)
from cotap_mm.visualization.figures.features import pca_maps, similarity_map
from cotap_mm.visualization.figures.grid import Panel, Row, Scale, picture_sheet
from cotap_mm.visualization.figures.overlays import crops_with_boxes, foreground_overlay
from cotap_mm.visualization.figures.projection import Plane, class_scatter
from cotap_mm.visualization.figures.prototypes import prototype_gallery

from .html import Report
from .image_set import ImageSet, spread

Patch = tuple[int, int, int]  # image, row, column
Features = dict[str, Tensor]  # name -> patch features of the images, (B, C, h, w)


def add_components(
    report: Report, images: ImageSet, features: Features, file_name: str = 'pca'
) -> None:
    """Add principal components of patch features.

    Args:
        report (Report): Where to.
        images (ImageSet): Images to show.
        features (dict): Name of each network -> its features of these images, and
            perhaps more (B, C, h, w), which then belong to the PCA as well.
        file_name (str): Of the picture, without suffix. Defaults to 'pca'.
    """
    rows = [Row('image', images.pixels)]
    rows += [Row(name, pca_maps(found)[: len(images.pixels)]) for name, found in features.items()]
    count = len(next(iter(features.values())))
    report.add_picture(
        file_name,
        'Principal components of patch features',
        'The three main directions of the features as red, green and blue, computed over '
        f'{_number(count, "image")} together: within a row, equal colours mean similar features. '
        'Between rows, colours cannot be compared.',
        picture_sheet(rows, _titles(images)),
    )


def add_similarity(
    report: Report, images: ImageSet, features: Features, patch: Patch, what: str = ''
) -> None:
    """Add the similarity of one patch to all patches of all images.

    Args:
        report (Report): Where to.
        images (ImageSet): Images to show.
        features (dict): Name of each network -> its features, each (B, C, h, w).
        patch (tuple): (image, row, column) on the grid of the first network.
        what (str): What the patch shows, if it is known. Defaults to ''.
    """
    grid = _grid(next(iter(features.values())))
    marked = _marked(images, patch, grid)
    rows = [Row('image', marked)]
    for name, found in features.items():
        maps = _similarity(found, patch, grid)
        low = min(each.min() for each in maps)
        panels = [colorize(each, low, 1) for each in maps]
        rows.append(Row(name, panels, Scale(low, 1, 'viridis', 'cosine')))
    report.add_picture(
        'similarity',
        'Similarity of one patch',
        f'How similar the framed patch{f" ({what})" if what else ""}, row {patch[1]} and column '
        f'{patch[2]} of image {patch[0]}, is to every patch of every image. Each row has '
        'its own scale, as networks differ in how large their cosines are.',
        picture_sheet(rows, _titles(images)),
    )


def add_clusters(report: Report, images: ImageSet, features: Features, count: int) -> None:
    """Add groups of patches, found together in all images.

    Args:
        report (Report): Where to.
        images (ImageSet): Images to show.
        features (dict): Name of each network -> its features, each (B, C, h, w).
        count (int): Number of clusters.
    """
    rows = [Row('image', images.pixels)]
    rows += [
        Row(name, _cluster_panels(images, found))
        for name, found in all_clusters(features, count).items()
    ]
    report.add_picture(
        'clusters',
        f'Patches in {count} clusters',
        f'k-means over the patches of {_number(len(images.pixels), "image")} together: equal '
        'numbers and colours are one cluster. '
        + (
            'Each network has its own clusters, named after those of the first that they share '
            'most patches with.'
            if len(features) > 1
            else 'Cluster 0 is the largest.'
        ),
        picture_sheet(
            rows,
            _titles(images),
            legend={str(k): color for k, color in enumerate(distinct_colors(count))},
        ),
    )


def add_comparison(
    report: Report, images: ImageSet, features: Features, patch: Patch, count: int, shown: int = 3
) -> None:
    """Add networks next to each other: components, similarity and clusters.

    Args:
        report (Report): Where to.
        images (ImageSet): Images; shown are the patch's and others, evenly spread.
        features (dict): Name of each network -> its features, each (B, C, h, w).
        patch (tuple): (image, row, column) on the grid of the first network.
        count (int): Number of clusters.
        shown (int): Images to show, 2 or more. Defaults to 3.
    """
    rest = [i for i in range(len(images.pixels)) if i != patch[0]]
    chosen = [patch[0], *(rest[i] for i in spread(len(rest), shown - 1))]
    image, *others = comparison_columns(images, features, patch, count)
    networks = len(features)
    if networks < 3:
        columns, beside = [image, *others], 1 + len(others)
    else:  # below each other, each with the image again
        parts = [others[i : i + networks] for i in range(0, len(others), networks)]
        columns, beside = [each for part in parts for each in (image, *part)], 1 + networks
    rows = [Row('', [column[i] for _, column in columns]) for i in chosen]
    report.add_picture(
        'compare',
        'Networks side by side',
        'The same images through each network: principal components, similarity to the framed '
        f'patch (bright is similar), and {count} clusters.',
        picture_sheet(rows, [title for title, _ in columns], max_columns=beside),
    )


def comparison_columns(
    images: ImageSet, features: Features, patch: Patch, count: int
) -> list[tuple[str, list[Panel]]]:
    """Columns of the comparison: a title and one panel for each image."""
    grid = _grid(next(iter(features.values())))
    columns = [('image', _marked(images, patch, grid))]
    columns += [
        (f'components\n{name}', [Panel(each) for each in pca_maps(found)])
        for name, found in features.items()
    ]
    for name, found in features.items():
        maps = _similarity(found, patch, grid)
        low = min(each.min() for each in maps)
        columns.append((f'similarity\n{name}', [Panel(colorize(each, low, 1)) for each in maps]))
    columns += [
        (f'clusters\n{name}', _cluster_panels(images, found))
        for name, found in all_clusters(features, count).items()
    ]
    return columns


def all_clusters(features: Features, count: int) -> dict[str, np.ndarray]:
    """Clusters (B, h, w) of each network, named after those of the first."""
    found = {name: joint_clusters(each, count) for name, each in features.items()}
    first = next(iter(found.values()))
    return {
        name: each if each is first else match_clusters(each, first) for name, each in found.items()
    }


def add_attention(
    report: Report,
    images: ImageSet,
    name: str,
    attention: Tensor,
    foreground: Tensor,
    number: int = 0,
) -> None:
    """Add what the CLS token of one network attends to.

    Args:
        report (Report): Where to.
        images (ImageSet): Images to show.
        name (str): Of the network.
        attention (Tensor): Softmax weights, shape (B, heads, h, w).
        foreground (Tensor): Mask, bool, shape (B, h, w).
        number (int): Of the network, for the file name. Defaults to 0.
    """
    weights = attention.float().cpu().numpy() * attention[0, 0].numel()
    maps = [weights.mean(axis=1), *weights.swapaxes(0, 1)]
    names = ['mean over heads', *(f'head {head + 1}' for head in range(weights.shape[1]))]
    rows = [
        Row('image', images.pixels),
        Row(
            'foreground',
            [foreground_overlay(image, mask) for image, mask in zip(images.pixels, foreground)],
        ),
    ]
    for title, found in zip(names, maps):
        # One patch must not darken all others, and even attention not look like a peak.
        high = max(2.0, float(np.quantile(found, 0.995)))
        rows.append(
            Row(
                title,
                [colorize(each, 0, high, 'inferno') for each in found],
                Scale(0, high, 'inferno', 'x uniform'),
            )
        )
    report.add_picture(
        _file_name('attention', number),
        f'Attention of the CLS token: {name}',
        'How much CLS attends to each patch in the last block; 1 would be the same for all '
        'patches. In colour in the second row: the foreground, the smallest set of patches that '
        'holds 60 % of the attention. Pre-training looks only there in its patch losses.',
        picture_sheet(rows, _titles(images)),
    )


def add_prototypes(
    report: Report, images: ImageSet, name: str, attention: Tensor, number: int = 0
) -> None:
    """Add what the prototypes of one network attend to.

    Args:
        report (Report): Where to.
        images (ImageSet): Images to search, many.
        name (str): Of the network.
        attention (Tensor): Softmax weights, shape (B, heads, h, w, M).
        number (int): Of the network, for the file name. Defaults to 0.
    """
    report.add_picture(
        _file_name('prototypes', number),
        f'What each prototype attends to: {name}',
        f'Left: of {_number(len(images.pixels), "image")}, the patches that attend most to each '
        'object prototype (one of an image). Right: its attention over whole images, bright is '
        'strong. Shown are the prototypes that most patches prefer.',
        prototype_gallery(images.pixels, attention),
    )


def add_classes(
    report: Report, planes: dict[str, Plane], classes: Sequence[str], num_images: int, method: str
) -> None:
    """Add patches as points, coloured by class.

    Args:
        report (Report): Where to.
        planes (dict): Name of each network -> its points.
        classes (sequence): Name of each class.
        num_images (int): Images that the points are from.
        method (str): 'lda' or 'pca'; see :func:`project`.
    """
    how = (
        'Axes: the two directions that separate the classes best, found on the first half of '
        f'{num_images} images; points: patches of the second half.'
        if method == 'lda'
        else f'Axes: the two main directions of the features of {num_images} images.'
    )
    report.add_picture(
        'classes',
        'Patches by class',
        f'{how} Each patch has the class that fills more than half of it; large marks are the '
        'means of the classes. The outermost per cent of points may lie outside.',
        class_scatter(planes, classes),
    )


def add_crops(
    report: Report,
    images: Sequence[Pixels],
    crops: Sequence[tuple[Sequence[Pixels], Tensor]],
    num_global: int,
) -> None:
    """Add images with the boxes of training crops, and the crops.

    Args:
        report (Report): Where to.
        images (sequence): uint8, each (H, W, 3), of any sizes.
        crops (sequence): For each image its crops, uint8 (H, W, 3), global ones first,
            and their boxes (V, 4).
        num_global (int): How many are global.
    """
    pictures = [
        crops_with_boxes(image, boxes, views, num_global)
        for image, (views, boxes) in zip(images, crops)
    ]
    widest = max(picture.shape[1] for picture in pictures)
    pictures = [
        np.pad(picture, ((0, 0), (0, widest - picture.shape[1]), (0, 0)), constant_values=255)
        for picture in pictures
    ]
    report.add_picture(
        'crops',
        'What pre-training sees',
        'Images with the boxes of their crops (drawn with seed 0, before any change of colour). '
        'Patches that show the same place in two crops should agree.',
        np.concatenate(pictures),
    )


def _cluster_panels(images: ImageSet, clusters: np.ndarray) -> list[Panel]:
    return [
        Panel(cluster_overlay(image, each), partial(draw_borders, clusters=each, size=images.size))
        for image, each in zip(images.pixels, clusters)
    ]


def _marked(images: ImageSet, patch: Patch, grid: tuple[int, int]) -> list[Panel]:
    """The images, with the patch framed, and a ring around it where it is small."""
    frame = partial(
        frame_patch,
        patch=patch[1:],
        grid=grid,
        size=images.size,
        thickness=0.7,
        ring=9 if min(grid) > 20 else None,
    )
    return [
        Panel(image, frame if index == patch[0] else None)
        for index, image in enumerate(images.pixels)
    ]


def _similarity(features: Tensor, patch: Patch, grid: tuple[int, int]) -> list[np.ndarray]:
    """Cosine maps (h, w) of a patch whose place is given on ``grid``, to all images."""
    rows, columns = features.shape[2:]
    place = (
        (2 * patch[1] + 1) * rows // (2 * grid[0]),
        (2 * patch[2] + 1) * columns // (2 * grid[1]),
    )
    return [similarity_map(features[patch[0]], place, other) for other in features]


def _grid(features: Tensor) -> tuple[int, int]:
    return features.shape[2], features.shape[3]


def _titles(images: ImageSet) -> list[str]:
    """Number and name of each image; () without names.

    The end of a long name tells more than its beginning.
    """
    if not any(images.names):
        return []
    short = [name if len(name) <= 20 else f'…{name[-19:]}' for name in images.names]
    return [f'{index}: {name}' for index, name in enumerate(short)]


def _number(count: int, what: str) -> str:
    return f'{count} {what}' + ('' if count == 1 else 's')


def _file_name(kind: str, number: int) -> str:
    return kind if number == 0 else f'{kind}_{number}'
