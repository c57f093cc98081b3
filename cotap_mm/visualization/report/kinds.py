"""Kinds of pictures in a report on patch features; :func:`make_report` draws all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional

import numpy as np
from torch import Tensor

from cotap_mm.datasets.transforms import MultiCrop
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.ops.sampling import evenly_spaced
from cotap_mm.visualization.errors import NotAvailable
from cotap_mm.visualization.figures.norms import feature_norms
from cotap_mm.visualization.figures.projection import join, labeled_patches, project

from . import assignments, norms, overview, sections
from .html import Report
from .image_set import encode_images, encode_tokens, in_batches
from .inputs import ReportInputs

MakeCrop = Callable[[], MultiCrop]


def add_overview(report: Report, inputs: ReportInputs, make_crop: MakeCrop) -> None:
    """Add similarity, components and retrieval of the chosen patches in one picture."""
    overview.add_overview(report, inputs)


def add_comparison(report: Report, inputs: ReportInputs, make_crop: MakeCrop) -> None:
    """Add the side-by-side comparison of all checkpoints."""
    if len(inputs.encoders) < 2:
        raise NotAvailable('needs at least two checkpoints, got one')
    sections.add_comparison(
        report, inputs.shown, inputs.features, inputs.patch[0], inputs.options.clusters
    )


def add_components(report: Report, inputs: ReportInputs, make_crop: MakeCrop) -> None:
    """Add the principal components of the patch features."""
    sections.add_components(report, inputs.shown, inputs.features)


def add_similarity(report: Report, inputs: ReportInputs, make_crop: MakeCrop) -> None:
    """Add the similarity of all patches to one patch."""
    sections.add_similarity(report, inputs.shown, inputs.features, *inputs.patch)


def add_clusters(report: Report, inputs: ReportInputs, make_crop: MakeCrop) -> None:
    """Add the clusters of the patch features."""
    sections.add_clusters(report, inputs.shown, inputs.features, inputs.options.clusters)


def add_attention(report: Report, inputs: ReportInputs, make_crop: MakeCrop) -> None:
    """Add CLS attention and foreground."""

    def compute(encoder: Encoder) -> tuple[Tensor, Tensor]:
        return (
            in_batches(encoder.cls_attention, inputs.shown.pixels),
            in_batches(encoder.foreground, inputs.shown.pixels),
        )

    for number, (name, maps) in enumerate(inputs.compute_where_available(compute).items()):
        sections.add_attention(report, inputs.shown, name, *maps, number)


def add_prototypes(report: Report, inputs: ReportInputs, make_crop: MakeCrop) -> None:
    """Add the attention of the prototypes."""

    def compute(encoder: Encoder) -> Tensor:
        def mean_attention(images: Tensor) -> Tensor:  # all heads of many images take much memory
            return encoder.prototype_attention(images).mean(dim=1, keepdim=True)

        return in_batches(mean_attention, inputs.pool.pixels)

    for number, (name, maps) in enumerate(inputs.compute_where_available(compute).items()):
        sections.add_prototypes(report, inputs.pool, name, maps, number)


def add_assignments(report: Report, inputs: ReportInputs, make_crop: MakeCrop) -> None:
    """Add the prototype of each patch."""

    def compute(encoder: Encoder) -> Tensor:
        return in_batches(encoder.prototype_attention, inputs.shown.pixels)

    for number, (name, maps) in enumerate(inputs.compute_where_available(compute).items()):
        assignments.add_assignments(report, inputs.shown, name, maps, number)


def add_norms(report: Report, inputs: ReportInputs, make_crop: MakeCrop) -> None:
    """Add the norms of the patch tokens."""
    found = {
        name: feature_norms(encode_tokens(encoder, inputs.shown.pixels))
        for name, encoder in inputs.encoders.items()
    }
    norms.add_norms(report, inputs.shown, found)


def add_classes(report: Report, inputs: ReportInputs, make_crop: MakeCrop) -> None:
    """Add the scatter plot of labeled patches."""
    if inputs.labels is None:
        raise NotAvailable('needs --labels')
    pool, window, method = inputs.pool, inputs.options.window, inputs.options.projection
    planes = {}
    for name, encoder in inputs.encoders.items():
        parts = [
            labeled_patches(
                encode_images(encoder, [image], window), label, len(inputs.classes), index
            )
            for index, (image, label) in enumerate(zip(pool.pixels, pool.labels))
        ]
        planes[name] = project(join(parts), method)
    sections.add_classes(report, planes, inputs.classes, len(pool.pixels), method)


def add_crops(report: Report, inputs: ReportInputs, make_crop: MakeCrop) -> None:
    """Add training crops with their boxes."""
    crop = make_crop()
    random, crops = np.random.default_rng(0), []
    images = [inputs.source.read(i) for i in evenly_spaced(len(inputs.source), 3)]
    for image in images:
        global_crops, local_crops, boxes = crop(image, random)
        crops.append(([view.numpy() for view in (*global_crops, *local_crops)], boxes))
    note = 'The crops are drawn with seed 0.'
    sections.add_crops(report, images, crops, crop.num_global, note=note)


#: Kinds of pictures in the order of the report.
KINDS: dict[str, Callable[[Report, ReportInputs, MakeCrop], None]] = dict(
    overview=add_overview,
    compare=add_comparison,
    pca=add_components,
    similarity=add_similarity,
    clusters=add_clusters,
    attention=add_attention,
    assignments=add_assignments,
    prototypes=add_prototypes,
    norms=add_norms,
    classes=add_classes,
    crops=add_crops,
)


def make_report(
    inputs: ReportInputs,
    checkpoints: dict[str, str],
    kinds: Optional[Sequence[str]] = None,
    make_crop: MakeCrop = MultiCrop,
    command: str = '',
    svg: bool = False,
) -> Report:
    """Draw all requested kinds of pictures, or all that are possible, and print progress.

    Args:
        inputs (ReportInputs): Encoders and images.
        checkpoints (dict): Name of each encoder -> its checkpoint, for the table.
        kinds (sequence, optional): Keys of ``KINDS``. Defaults to None (all that are possible).
        make_crop (callable): Builds the crop transform. Defaults to :class:`MultiCrop` with
            its defaults.
        command (str): Command line that makes the report. Defaults to ''.
        svg (bool): Whether to save figures as SVG files, too. Defaults to False.

    Returns:
        Report: Not saved yet.

    Raises:
        NotAvailable: If a requested kind is not possible.
    """
    height, width = inputs.size
    window = inputs.options.window
    intro = (
        f'{len(inputs.shown.pixels)} of {len(inputs.source)} images, evenly spaced, all resized '
        f'to {height} x {width} pixels (height x width) regardless of their aspect ratio'
        + (f', encoded in overlapping windows of {window} pixels' if window else '')
        + '.'
    )
    print(intro)
    report = Report('Patch features', intro, command, svg)
    _add_checkpoints(report, inputs, checkpoints)
    for kind, add in KINDS.items():
        if kinds and kind not in kinds:
            continue
        try:
            add(report, inputs, make_crop)
        except NotAvailable as error:
            if kinds:
                raise NotAvailable(f'--kinds {kind}: {error}') from error
            print(f'{kind}: skipped, {error}')
        else:
            print(f'{kind}: done')
    return report


def _add_checkpoints(report: Report, inputs: ReportInputs, checkpoints: dict[str, str]) -> None:
    rows = []
    for name, encoder in inputs.encoders.items():
        _, channels, *grid = inputs.features[name].shape
        size = f'{encoder.patch_size} px'
        rows.append([name, checkpoints[name], size, channels, ' x '.join(map(str, grid))])
    report.add_table(
        'Checkpoints',
        'Patch size, channels of the features that are shown, and patch grid of an image.',
        ['name', 'checkpoint', 'patch size', 'channels', 'patches'],
        rows,
    )
