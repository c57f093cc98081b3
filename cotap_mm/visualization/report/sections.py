"""Sections of a report: one function per kind of picture, for any encoders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from cotap_mm.ops.sampling import evenly_spaced
from cotap_mm.visualization.figures.canvas import Pixels, colorize
from cotap_mm.visualization.figures.clusters import distinct_colors
from cotap_mm.visualization.figures.grid import Row, Scale, sheet_figure
from cotap_mm.visualization.figures.overlays import crops_with_boxes, foreground_overlay
from cotap_mm.visualization.figures.pca import shared_pca_maps
from cotap_mm.visualization.figures.projection import Plane, class_figure
from cotap_mm.visualization.figures.prototypes import prototype_figure

from .html import Report
from .image_set import ImageSet, short_titles
from .panels import (
    Features,
    Patch,
    all_clusters,
    channel_note,
    cluster_panels,
    comparison_columns,
    grid_of,
    marked_panels,
    similarity_maps,
)


def add_components(
    report: Report, images: ImageSet, features: Features, file_name: str = 'pca'
) -> None:
    """Add principal components of patch features.

    Args:
        report (Report): Report to extend.
        images (ImageSet): Images to show.
        features (dict): Name of each network -> its features, each (B, C, h, w), of these
            images and optionally of more, which then take part in the PCA.
        file_name (str): Name of the picture, without suffix. Defaults to 'pca'.
    """
    rows = [Row('image', images.pixels)]
    components = shared_pca_maps(features)
    rows += [Row(name, maps[: len(images.pixels)]) for name, maps in components.items()]
    count = len(next(iter(features.values())))
    report.add_picture(
        file_name,
        'Principal components of patch features',
        'The first three principal components as red, green and blue, computed jointly over '
        f'{_number(count, "image")}: within a row, equal colors mean similar features. '
        f'{channel_note(features)}'.rstrip(),
        sheet_figure(rows, image_titles(images)),
    )


def add_similarity(
    report: Report, images: ImageSet, features: Features, patch: Patch, what: str = ''
) -> None:
    """Add the similarity of one patch to all patches of all images.

    Args:
        report (Report): Report to extend.
        images (ImageSet): Images to show.
        features (dict): Name of each network -> its features, each (B, C, h, w).
        patch (tuple): (image, row, column) on the grid of the first network.
        what (str): What the patch shows, if known. Defaults to ''.
    """
    grid = grid_of(features)
    rows = [Row('image', marked_panels(images, patch, grid))]
    rows += [Row(name, *similarity_maps(maps, patch, grid)) for name, maps in features.items()]
    report.add_picture(
        'similarity',
        'Similarity of one patch',
        f'Cosine similarity of the framed patch{f" ({what})" if what else ""}, row {patch[1]} and '
        f'column {patch[2]} of image {patch[0]}, to every patch of every image. Each row has '
        'its own scale, because networks differ in how large their cosines are.',
        sheet_figure(rows, image_titles(images)),
    )


def add_clusters(report: Report, images: ImageSet, features: Features, count: int) -> None:
    """Add clusters of patches, computed jointly over all images.

    Args:
        report (Report): Report to extend.
        images (ImageSet): Images to show.
        features (dict): Name of each network -> its features, each (B, C, h, w).
        count (int): Number of clusters.
    """
    rows = [Row('image', images.pixels)]
    rows += [
        Row(name, cluster_panels(images, clusters))
        for name, clusters in all_clusters(features, count).items()
    ]
    numbers = (
        'Each network has its own clusters, numbered to match those of the first network as well '
        'as possible.'
        if len(features) > 1
        else 'Cluster 0 is the largest.'
    )
    report.add_picture(
        'clusters',
        f'Patches in {count} clusters',
        f'k-means over the patches of {_number(len(images.pixels), "image")}: the same number '
        f'and color mean the same cluster. {numbers}',
        sheet_figure(
            rows,
            image_titles(images),
            legend={str(k): color for k, color in enumerate(distinct_colors(count))},
        ),
    )


def add_comparison(
    report: Report, images: ImageSet, features: Features, patch: Patch, count: int, shown: int = 3
) -> None:
    """Add components, similarity and clusters of several networks side by side.

    Args:
        report (Report): Report to extend.
        images (ImageSet): Images: that of the patch and others, evenly spaced, are shown.
        features (dict): Name of each network -> its features, each (B, C, h, w).
        patch (tuple): (image, row, column) on the grid of the first network.
        count (int): Number of clusters.
        shown (int): Number of images to show, at least 2. Defaults to 3.
    """
    rest = [i for i in range(len(images.pixels)) if i != patch[0]]
    chosen = [patch[0], *(rest[i] for i in evenly_spaced(len(rest), shown - 1))]
    image, *others = comparison_columns(images, features, patch, count)
    networks = len(features)
    if networks < 3:
        columns, beside = [image, *others], 1 + len(others)
    else:  # one block per kind of picture, each with the image again
        blocks = [others[i : i + networks] for i in range(0, len(others), networks)]
        columns = [column for block in blocks for column in (image, *block)]
        beside = 1 + networks
    rows = [Row('', [panels[i] for _, panels in columns]) for i in chosen]
    report.add_picture(
        'compare',
        'Networks side by side',
        'The same images through each network: principal components, similarity to the framed '
        f'patch (bright is similar), and {count} clusters.',
        sheet_figure(rows, [title for title, _ in columns], max_columns=beside),
    )


def add_foreground(report: Report, images: ImageSet, masks: dict[str, Tensor]) -> None:
    """Add foreground masks.

    Args:
        report (Report): Report to extend.
        images (ImageSet): Images to show.
        masks (dict): Name of each network -> its masks, bool, shape (B, h, w).
    """
    report.add_picture(
        'foreground',
        'Foreground masks',
        'In color: the smallest set of patches that holds 60 % of the attention of the '
        "teacher's CLS token. The patch losses use only these patches.",
        sheet_figure(
            [
                Row('image', images.pixels),
                *(_foreground_row(name, images, mask) for name, mask in masks.items()),
            ],
            image_titles(images),
        ),
    )


def add_attention(
    report: Report,
    images: ImageSet,
    name: str,
    attention: Tensor,
    foreground: Tensor,
    number: int = 0,
) -> None:
    """Add the attention of the CLS token of one network.

    Args:
        report (Report): Report to extend.
        images (ImageSet): Images to show.
        name (str): Name of the network.
        attention (Tensor): Softmax weights, shape (B, heads, h, w).
        foreground (Tensor): Bool mask, shape (B, h, w).
        number (int): Index of the network, for the file name. Defaults to 0.
    """
    weights = attention.float().cpu().numpy() * attention[0, 0].numel()
    maps = [weights.mean(axis=1), *weights.swapaxes(0, 1)]
    names = ['mean over heads', *(f'head {head + 1}' for head in range(weights.shape[1]))]
    rows = [Row('image', images.pixels), _foreground_row('foreground', images, foreground)]
    for title, values in zip(names, maps):
        # One outlier must not darken all other patches, nor uniform attention look peaked.
        high = max(2.0, float(np.quantile(values, 0.995)))
        panels = [colorize(value, 0, high, 'inferno') for value in values]
        rows.append(Row(title, panels, Scale(0, high, 'inferno', 'x uniform')))
    report.add_picture(
        file_name('attention', number),
        f'Attention of the CLS token: {name}',
        'How much the CLS token attends to each patch in the last block; 1 is uniform attention. '
        'In color in the second row: the foreground, the smallest set of patches that holds 60 % '
        'of the attention. In pre-training, the patch losses use only these patches.',
        sheet_figure(rows, image_titles(images)),
    )


def add_prototypes(
    report: Report, images: ImageSet, name: str, attention: Tensor, number: int = 0
) -> None:
    """Add the patches and attention maps of the prototypes of one network.

    Args:
        report (Report): Report to extend.
        images (ImageSet): Images to search; the more, the better.
        name (str): Name of the network.
        attention (Tensor): Softmax weights, shape (B, heads, h, w, M).
        number (int): Index of the network, for the file name. Defaults to 0.
    """
    report.add_picture(
        file_name('prototypes', number),
        f'What each prototype attends to: {name}',
        f'Left: the patches of {_number(len(images.pixels), "image")} that attend most to each '
        'object prototype, one per image. Right: attention to the prototype over whole images; '
        'bright is strong. The rows are the prototypes that the most patches prefer; those whose '
        'maps correlate above 0.8 with a row are named below its title instead.',
        prototype_figure(images.pixels, attention),
    )


def add_classes(
    report: Report, planes: dict[str, Plane], classes: Sequence[str], num_images: int, method: str
) -> None:
    """Add patches as points, colored by class.

    Args:
        report (Report): Report to extend.
        planes (dict): Name of each network -> its points.
        classes (sequence): Name of each class.
        num_images (int): Number of images that the points are from.
        method (str): 'lda' or 'pca'; see :func:`project`.
    """
    how = (
        'Axes: the two directions that best separate the classes, fitted on the first half of '
        f'{num_images} images. Points: patches of the second half.'
        if method == 'lda'
        else f'Axes: the first two principal components of the features of {num_images} images.'
    )
    report.add_picture(
        'classes',
        'Patches by class',
        f'{how} The class of a patch is the one that covers more than half of it; large markers '
        'are the class means. The outermost 1 % of the points may be outside the plot.',
        class_figure(planes, classes),
    )


def add_crops(
    report: Report,
    images: Sequence[Pixels],
    crops: Sequence[tuple[Sequence[Pixels], Tensor]],
    num_global: int,
    note: str = '',
) -> None:
    """Add images with the boxes of training crops, and the crops.

    Args:
        report (Report): Report to extend.
        images (sequence): Images of any sizes, uint8, each (H, W, 3).
        crops (sequence): Crops of each image, uint8 (H, W, 3), global ones first, and their
            boxes (V, 4).
        num_global (int): Number of global crops.
        note (str): Sentence to append to the caption. Defaults to ''.
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
        'What the network sees in pre-training',
        'Training images with the boxes of their crops, before color augmentation. Patches that '
        f'show the same location in two crops should agree. {note}'.rstrip(),
        np.concatenate(pictures),
    )


def _foreground_row(title: str, images: ImageSet, masks: Tensor) -> Row:
    return Row(title, [foreground_overlay(image, m) for image, m in zip(images.pixels, masks)])


def image_titles(images: ImageSet) -> list[str]:
    """Return the number and name of each image; an empty list if the images have no names."""
    return short_titles(images.names) if any(images.names) else []


def _number(count: int, noun: str) -> str:
    return f'{count} {noun}' + ('' if count == 1 else 's')


def file_name(kind: str, number: int) -> str:
    """Return the file name of a picture of network ``number``."""
    return kind if number == 0 else f'{kind}_{number}'
