"""Pictures of a network before and after training, for the report of ``cotap demo``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import default_collate

from cotap_mm.datasets.sources.names import names_of
from cotap_mm.encoders.encoder import Encoder, eval_mode
from cotap_mm.encoders.vit import CoTAPEncoder
from cotap_mm.evaluation.data.labeled_set import LabeledSet
from cotap_mm.evaluation.protocols.dense_retrieval import (
    build_memory,
    label_from_shares,
    retrieve_labels,
)
from cotap_mm.models.device_crops import with_crops
from cotap_mm.visualization.figures.canvas import Pixels
from cotap_mm.visualization.figures.grid import image_grid
from cotap_mm.visualization.figures.overlays import class_legend, label_map

from . import sections
from .example import Example
from .html import Report
from .image_set import ImageSet, encode_images, in_batches, to_batch

SHOWN = 6  # images in a row


def add_training_crops(report: Report, dataset: Any) -> None:
    """Add a training image of the patch branch with its crops.

    Args:
        report (Report): Report to extend.
        dataset (NeighborPairs): Training data set.
    """
    branch = with_crops(default_collate([dataset[0]]))['patch']
    images = dataset.branches['patch']
    source = images.source
    index = names_of(source).index(branch['path'][0][0])
    global_crops, local_crops = branch['global_crops'][0, 0], branch['local_crops'][0, 0]
    crops = [crop.numpy() for crop in (*global_crops, *local_crops)]
    sections.add_crops(
        report,
        [source.read(index, images.is_large_enough)],
        [(crops, branch['boxes'][0, 0])],
        len(global_crops),
        note='A similar image, its neighbor, is cropped in the same way.',
    )


def add_networks(
    report: Report, networks: dict[str, Any], images: Sequence[Pixels], example: Example
) -> None:
    """Add foreground masks, components and similarity of several networks.

    Features are those of the student, before and after the object-aware filter.

    Args:
        report (Report): Report to extend.
        networks (dict): Name -> ``CoTAP`` algorithm.
        images (sequence): Images of one size, uint8 (H, W, 3); the first ones are shown.
        example (Example): Patch to follow; see :func:`choose_example`.
    """
    shown = _unnamed(images[:SHOWN])
    masks = {}
    for name, network in networks.items():
        device = next(network.parameters()).device
        with eval_mode(network):
            masks[name] = network.foreground(to_batch(shown.pixels).to(device))
    sections.add_foreground(report, shown, masks)
    features = {
        f'{name},\n{output}': encode_images(CoTAPEncoder(network, 'student', output), images)
        for name, network in networks.items()
        for output in ('backbone', 'filter')
    }
    sections.add_components(report, shown, features, 'components')
    chosen = [example.image, example.neighbor]
    chosen += [i for i in range(len(images)) if i not in chosen][: SHOWN - 2]
    titles = ['image', 'its neighbor', *['another image'] * (len(chosen) - 2)]
    sections.add_similarity(
        report,
        ImageSet(titles, [images[i] for i in chosen]),
        {name: maps[chosen] for name, maps in features.items()},
        (0, *example.patch),
        example.name,
    )


def add_student_prototypes(
    report: Report, name: str, network: Any, images: Sequence[Pixels]
) -> None:
    """Add the patches and attention maps of the prototypes of one network.

    Args:
        report (Report): Report to extend.
        name (str): Name of the network.
        network (CoTAP): Network whose student is shown.
        images (sequence): Images of one size, uint8 (H, W, 3).
    """
    attention = in_batches(CoTAPEncoder(network).prototype_attention, images)
    sections.add_prototypes(report, _unnamed(images), name, attention)


def add_retrieval(report: Report, encoders: dict[str, Encoder], memory: Any, scenes: Any) -> None:
    """Add the labels that dense retrieval predicts, next to the ground truth.

    Args:
        report (Report): Report to extend.
        encoders (dict): Name -> encoder.
        memory: Labeled data set; see :func:`dense_retrieval`.
        scenes: Data set with ``read(i)``, ``label(i)``, ``CLASSES`` and ``PALETTE``; the first
            images are shown.
    """
    count = min(SHOWN, len(scenes))
    images = [scenes.read(i) for i in range(count)]
    labels = [scenes.label(i) for i in range(count)]
    rows, shown = [images, [label_map(label, scenes.PALETTE) for label in labels]], list(labels)
    for encoder in encoders.values():
        bank, shares = build_memory(encoder, LabeledSet(memory, len(scenes.CLASSES)))
        maps = retrieve_labels(encoder(to_batch(images)).patches, bank, shares, 30, 0.02)
        predicted = [label_from_shares(soft, label.shape) for soft, label in zip(maps, labels)]
        rows.append([label_map(label, scenes.PALETTE) for label in predicted])
        shown += predicted
    report.add_picture(
        'retrieval',
        'Labels predicted by dense retrieval',
        'Each patch takes the labels of the 30 most similar patches of the labeled memory; '
        'no layer is trained.',
        image_grid(
            rows,
            ['image', 'ground truth', *encoders],
            legend=class_legend(shown, scenes.CLASSES, scenes.PALETTE),
        ),
    )


def _unnamed(images: Sequence[Pixels]) -> ImageSet:
    """Wrap images that have no names, such as toy scenes."""
    return ImageSet([''] * len(images), list(images))
