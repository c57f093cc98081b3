"""Project the patches of labeled images to a plane, colored by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from cotap_mm.evaluation.metrics import patch_labels

from .canvas import FAINT, Pixels, new_figure, render, styled
from .clusters import distinct_colors
from .grid import SHEET_DPI

METHODS = ('lda', 'pca')
MOST_COMPONENTS = 64
MARKERS = 'os^DvPX*<>'


class LabeledPatches(NamedTuple):
    """Patches with their dominant class.

    Attributes:
        features (Tensor): Shape (N, C).
        classes (Tensor): Index of the class, shape (N,).
        images (Tensor): Index of the image, shape (N,).
    """

    features: Tensor
    classes: Tensor
    images: Tensor


class Plane(NamedTuple):
    """Projected patches of one network.

    Attributes:
        points (np.ndarray): Shape (N, 2).
        classes (np.ndarray): Index of the class, shape (N,).
        axis_titles (tuple): Titles of the two axes, with the explained variance.
    """

    points: np.ndarray
    classes: np.ndarray
    axis_titles: tuple[str, str]


def labeled_patches(
    patches: Tensor, label: Tensor, num_classes: int, image: int = 0, per_class: int = 25
) -> LabeledPatches:
    """Sample patches of each class that occurs in an image.

    A patch is eligible if one class covers more than half of its labeled pixels.

    Args:
        patches (Tensor): Features of the image, shape (1, C, h, w).
        label (Tensor): Class indices, 255 ignored, shape (H, W).
        num_classes (int): Number of classes.
        image (int): Index of the image, also the random seed. Defaults to 0.
        per_class (int): Maximum number of patches per class. Defaults to 25.

    Returns:
        LabeledPatches: The sampled patches, on the CPU.
    """
    generator = torch.Generator().manual_seed(image)
    grid = (patches.shape[2], patches.shape[3])
    share, kinds = patch_labels(label.cpu(), grid, num_classes).max(dim=1)  # (h w,)
    order = torch.randperm(len(kinds), generator=generator)
    order = order[share[order] > 0.5]
    chosen = torch.cat([order[kinds[order] == kind][:per_class] for kind in range(num_classes)])
    rows = patches[0].detach().float().cpu().flatten(1).T  # (C, h, w) -> (N, C)
    return LabeledPatches(rows[chosen], kinds[chosen], torch.full_like(chosen, image))


def join(parts: Sequence[LabeledPatches]) -> LabeledPatches:
    """Concatenate the patches of all parts."""
    return LabeledPatches(*(torch.cat(columns) for columns in zip(*parts)))


def project(patches: LabeledPatches, method: str = 'lda') -> Plane:
    """Project L2-normalized features to two dimensions.

    ``'lda'`` computes the directions that best separate the classes (linear discriminants on
    the first 64 principal components). It overfits easily, so the axes are fitted on the first
    half of the images, and the points are from the second half. (Halves rather than alternating
    images, because adjacent frames of a video are almost identical.) ``'pca'`` ignores the
    classes; it is fitted on all images and shows all of them.

    Args:
        patches (LabeledPatches): Patches of at least 2 images.
        method (str): 'lda' or 'pca'. Defaults to 'lda'.

    Returns:
        Plane: The points to show.

    Raises:
        ValueError: If the method is unknown, or 'lda' gets fewer than 3 classes or only one
            image.
    """
    # Takes seconds, and trainings import this module.
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline

    if method not in METHODS:
        raise ValueError(f'method must be one of {", ".join(METHODS)}, got {method!r}')
    features = F.normalize(patches.features, dim=1).numpy()
    classes, images = patches.classes.numpy(), patches.images.numpy()
    if method == 'pca':
        fitted = PCA(2, random_state=0).fit(features)
        shares = 100 * fitted.explained_variance_ratio_
        return Plane(
            fitted.transform(features),
            classes,
            _titles('principal component {}\n({:.0f} % of the variance)', shares),
        )
    first = images < (images.max() + 1) / 2
    kinds = np.unique(classes[first])
    if len(kinds) < 3 or first.all():
        raise ValueError(
            "method 'lda' needs at least 2 labeled images, and 3 classes in their first "
            f'half, got {len(np.unique(images))} images and {len(kinds)} classes; '
            "use 'pca'"
        )
    # Too few patches per class to estimate the covariance of all channels.
    count = min(MOST_COMPONENTS, features.shape[1], int(first.sum()) // 2)
    separate = make_pipeline(PCA(count, random_state=0), LinearDiscriminantAnalysis(n_components=2))
    separate.fit(features[first], classes[first])
    shares = 100 * separate[-1].explained_variance_ratio_
    return Plane(
        separate.transform(features[~first]),
        classes[~first],
        _titles('discriminant {}\n({:.0f} % of the variance between classes)', shares),
    )


def _titles(text: str, shares: np.ndarray) -> tuple[str, str]:
    return text.format(1, shares[0]), text.format(2, shares[1])


def class_scatter(planes: dict[str, Plane], classes: Sequence[str]) -> Pixels:
    """Draw points colored by class; see :func:`class_figure`.

    Returns:
        np.ndarray: uint8, shape (H, W, 3).

    Raises:
        ValueError: If ``planes`` is empty.
    """
    return render(class_figure(planes, classes))


@styled
def class_figure(planes: dict[str, Plane], classes: Sequence[str]) -> Figure:
    """Draw points colored by class, one panel per network.

    Each class has its own color and marker; large markers are the class means.

    Args:
        planes (dict): Name of each network -> its points.
        classes (sequence): Name of each class.

    Returns:
        Figure: To be rendered or saved in any format.

    Raises:
        ValueError: If ``planes`` is empty.
    """
    if not planes:
        raise ValueError('there must be at least one network, got none')
    columns = 2 if len(planes) == 4 else min(3, len(planes))
    rows = -(-len(planes) // columns)
    shown = sorted({int(kind) for plane in planes.values() for kind in np.unique(plane.classes)})
    lines = -(-len(shown) // 7)
    wide, high = {1: (6.4, 4.4), 2: (4.9, 4.2), 3: (3.4, 3.4)}[columns]
    figure = new_figure(wide * columns, high * rows + 0.25 * lines)
    figure.set_dpi(SHEET_DPI)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(planes) :]:
        axes.axis('off')
    for axes, (name, plane) in zip(grid, planes.items()):
        _scatter(axes, plane, len(classes))
        axes.set_title(name)
    colors = _rgb(len(classes))
    handles = [
        grid[0].plot(
            [],
            [],
            MARKERS[kind % len(MARKERS)],
            color=colors[kind],
            mec='black',
            mew=0.5,
            ms=7,
            label=classes[kind],
        )[0]
        for kind in shown
    ]
    figure.legend(
        handles=handles,
        loc='outside lower center',
        ncols=min(7, len(shown)),
        frameon=False,
        fontsize=8.5,
        handletextpad=0.3,
        columnspacing=1.2,
    )
    return figure


def _scatter(axes: Axes, plane: Plane, num_classes: int) -> None:
    colors = _rgb(num_classes)
    order = np.random.default_rng(0).permutation(len(plane.points))  # no class covers all others
    for part in np.array_split(order, 12):
        for kind in np.unique(plane.classes[part]):
            points = plane.points[part][plane.classes[part] == kind]
            axes.scatter(
                *points.T,
                s=9,
                color=colors[kind],
                marker=MARKERS[kind % len(MARKERS)],
                alpha=0.55,
                linewidths=0,
            )
    for kind in np.unique(plane.classes):
        axes.plot(
            *plane.points[plane.classes == kind].mean(axis=0),
            MARKERS[kind % len(MARKERS)],
            color=colors[kind],
            mec='black',
            mew=0.9,
            ms=10,
        )
    low, high = np.percentile(plane.points, (0.5, 99.5), axis=0)
    margin = 0.06 * (high - low)  # outliers must not compress the rest
    axes.set(
        xlim=(low[0] - margin[0], high[0] + margin[0]),
        ylim=(low[1] - margin[1], high[1] + margin[1]),
        xlabel=plane.axis_titles[0],
        ylabel=plane.axis_titles[1],
    )
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(labelcolor=FAINT)


def _rgb(count: int) -> list[tuple[float, float, float]]:
    return [(red / 255, green / 255, blue / 255) for red, green, blue in distinct_colors(count)]
