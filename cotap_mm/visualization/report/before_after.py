"""Sections of a report that compare networks, such as before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from cotap_mm.encoders.encoder import Encoder, eval_mode
from cotap_mm.encoders.vit import CoTAPEncoder
from cotap_mm.evaluation.data.labeled_set import LabeledSet
from cotap_mm.evaluation.protocols.dense_retrieval import (
    build_memory,
    label_from_shares,
    patch_labels,
    retrieve_labels,
)
from cotap_mm.visualization.figures.canvas import Pixels, image_grid
from cotap_mm.visualization.figures.features import similarity_figure
from cotap_mm.visualization.figures.overlays import (
    class_legend,
    crops_with_boxes,
    foreground_overlay,
    label_map,
)

from . import sections
from .html import Report
from .image_set import ImageSet, encode_images, in_batches, to_batch

SHOWN = 6  # images in a row


class Example(NamedTuple):
    """A patch to follow: of ``image``, whose neighbour is ``neighbor``.

    Attributes:
        image (int): Index of the image.
        neighbor (int): Index of its nearest other image.
        patch (tuple): (row, column).
        name (str): What the patch shows.
    """

    image: int
    neighbor: int
    patch: tuple[int, int]
    name: str


def choose_example(
    encoder: Encoder, images: Sequence[Pixels], labels: Sequence[Any], classes: Sequence[str]
) -> Example:
    """Choose a patch by the labels, not by how good a result looks.

    The neighbour of each image is the most similar other one by CLS feature, as in
    training. Taken is the first image that shares a class with its neighbour, and of
    the shared classes the one that fills least of the image (an object rather than a ground); of
    that class the patch that it fills most.

    Args:
        encoder (Encoder): Finds neighbours.
        images (sequence): At least 2 images of one size, uint8 (H, W, 3).
        labels (sequence): Class indices, 255 ignored, each (H, W).
        classes (sequence): Name of each class.

    Returns:
        Example: The first image's most common class if no neighbours share one.
    """
    found = encoder(to_batch(images))
    similarity = F.normalize(found.cls, dim=1) @ F.normalize(found.cls, dim=1).T
    neighbors = similarity.fill_diagonal_(-2).argmax(dim=1).tolist()  # below every cosine
    grid = found.patches.shape[2:]
    shares = [
        patch_labels(torch.as_tensor(label), (grid[0], grid[1]), len(classes)).cpu()
        for label in labels
    ]  # each (h * w, C)
    areas = torch.stack([share.mean(dim=0) for share in shares])  # (B, C)
    image, kind = 0, int(areas[0].argmax())
    for index, other in enumerate(neighbors):
        # Purely by area, so that no list of "thing" classes is needed.
        shared = (areas[index] > 0.02) & (areas[other] > 0.02) & (areas[index] < 0.3)
        if shared.any():
            image, kind = index, int(areas[index].masked_fill(~shared, 2).argmin())
            break
    place = int(shares[image][:, kind].argmax())
    return Example(image, neighbors[image], (place // grid[1], place % grid[1]), classes[kind])


def _encoders(networks: dict[str, Any]) -> dict[str, Encoder]:
    return {
        f'{name},\n{output}': CoTAPEncoder(network, 'student', output)
        for name, network in networks.items()
        for output in ('backbone', 'filter')
    }


def add_crops(report: Report, dataset: Any) -> None:
    """Add a training image of the patch branch with its crops.

    Args:
        report (Report): Where to.
        dataset (NeighborPairs): What the network is trained on.
    """
    branch = dataset[0]['patch']
    images = dataset.branches['patch']
    source = images.source
    index = [source.name(i) for i in range(len(source))].index(branch['path'][0])
    global_crops, local_crops = branch['global_crops'][0], branch['local_crops'][0]
    crops = [crop.numpy() for crop in (*global_crops, *local_crops)]
    report.add_picture(
        'crops',
        'What the network sees',
        'An image with the boxes of its crops. Patches that show the same place in two crops '
        'should agree; a similar image, its neighbour, is cropped the same way.',
        crops_with_boxes(
            source.read(index, images.is_large_enough), branch['boxes'][0], crops, len(global_crops)
        ),
    )


def add_foreground(report: Report, networks: dict[str, Any], images: Sequence[Pixels]) -> None:
    """Add the teacher's foreground masks.

    Args:
        report (Report): Where to.
        networks (dict): Name -> ``CoTAP`` algorithm.
        images (sequence): Images of one size, uint8 (H, W, 3).
    """
    images = list(images)[:SHOWN]
    rows, titles = [images], ['image']
    for name, network in networks.items():
        with eval_mode(network):
            masks = network.foreground(to_batch(images).to(next(network.parameters()).device))
        rows.append([foreground_overlay(image, mask) for image, mask in zip(images, masks)])
        titles.append(name)
    report.add_picture(
        'foreground',
        'Foreground masks',
        'In colour: the smallest set of patches that holds 60 % of the attention of the '
        "teacher's CLS token. The patch losses look only there.",
        image_grid(rows, titles),
    )


def add_components(report: Report, networks: dict[str, Any], images: Sequence[Pixels]) -> None:
    """Add principal components of patch features; arguments as in :func:`add_foreground`."""
    features = {
        name: encode_images(encoder, images) for name, encoder in _encoders(networks).items()
    }
    sections.add_components(report, _shown(images), features, 'components')


def add_similarity(
    report: Report, networks: dict[str, Any], images: Sequence[Pixels], example: Example
) -> None:
    """Add similarity of one patch to its image and the neighbour.

    Args:
        report (Report): Where to.
        networks (dict): Name -> ``CoTAP`` algorithm.
        images (sequence): Images of one size, uint8 (H, W, 3).
        example (Example): Which patch; see :func:`choose_example`.
    """
    pair = [images[example.image], images[example.neighbor]]
    features = {}
    for name, encoder in _encoders(networks).items():
        own, other = encoder(to_batch(pair)).patches
        features[name] = (own, other)
    report.add_picture(
        'similarity',
        'Similarity of one patch',
        f'How similar the framed patch ({example.name}) is to all patches of its image and of its '
        'neighbour image; bright is similar, each row has its own scale.',
        similarity_figure(*pair, example.patch, features),
    )


def add_prototypes(report: Report, network: Any, images: Sequence[Pixels]) -> None:
    """Add what the prototypes of one network attend to; arguments as above."""
    attention = in_batches(CoTAPEncoder(network).prototype_attention, images)
    sections.add_prototypes(report, _shown(images, len(images)), 'after training', attention)


def _shown(images: Sequence[Pixels], count: int = SHOWN) -> ImageSet:
    """The first images; toy scenes have no names."""
    return ImageSet([''] * len(images[:count]), list(images[:count]))


def add_retrieval(report: Report, encoders: dict[str, Encoder], memory: Any, scenes: Any) -> None:
    """Add labels that dense retrieval finds, beside the true ones.

    Args:
        report (Report): Where to.
        encoders (dict): Name -> encoder.
        memory: Labelled data set, see :func:`dense_retrieval`.
        scenes: Has ``read(i)``, ``label(i)``, ``CLASSES`` and ``PALETTE``; the first
            images are shown.
    """
    count = min(SHOWN, len(scenes))
    images = [scenes.read(i) for i in range(count)]
    labels = [scenes.label(i) for i in range(count)]
    rows, shown = [images, [label_map(label, scenes.PALETTE) for label in labels]], list(labels)
    for encoder in encoders.values():
        bank, shares = build_memory(encoder, LabeledSet(memory, len(scenes.CLASSES)))
        maps = retrieve_labels(encoder(to_batch(images)).patches, bank, shares, 30, 0.02)
        guesses = [label_from_shares(soft, label.shape) for soft, label in zip(maps, labels)]
        rows.append([label_map(guess, scenes.PALETTE) for guess in guesses])
        shown += guesses
    report.add_picture(
        'retrieval',
        'Labels found by dense retrieval',
        'Every patch takes the labels of the 30 most similar patches of the labelled memory; '
        'no layer is trained for it.',
        image_grid(
            rows,
            ['image', 'truth', *encoders],
            legend=class_legend(shown, scenes.CLASSES, scenes.PALETTE),
        ),
    )
