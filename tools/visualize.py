"""Pictures of what networks make of your images, in one report.

    python tools/visualize.py work_dirs/vits_coco/iter_240000.pth --images DIR --out work_dirs/look
    python tools/visualize.py before=timm:vit_small_patch16_224.dino after=FILE --images DIR --out D
    python tools/visualize.py FILE --images DIR --labels DIR --classes sky road car --out DIR

A checkpoint is anything that cotap_mm.load takes: a file or URL of CoTAP, DINO, iBOT, timm, ...;
timm:NAME; random:FILE or random:timm:NAME for random weights. NAME=CHECKPOINT chooses its title.

Kinds: pca (main directions of the features as colours), similarity (of one patch to all others),
prototypes (patches and maps of each), attention (of CLS, with the foreground mask), crops (what
pre-training sees), clusters (k-means of patches), compare (two or more checkpoints side by side),
classes (patches on a plane, coloured by class; needs --labels). By default all that are possible.
"""

from __future__ import annotations

import argparse
import math
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import torch
from torch import Tensor

import cotap_mm
from cotap_mm.command_line.arguments import Parser, add_device, out_folder, positive_int
from cotap_mm.command_line.checkpoint_names import named_checkpoints
from cotap_mm.command_line.config_file import load_config
from cotap_mm.command_line.tool import report_user_errors, tool
from cotap_mm.datasets import open_images
from cotap_mm.datasets.sources.files import BadImage
from cotap_mm.datasets.transforms import MultiCrop
from cotap_mm.deprecation import RenamedOption
from cotap_mm.engine.launch import config as run_config
from cotap_mm.evaluation import Encoder, ImageMaskFolder
from cotap_mm.files.overwrite import add_overwrite, check_replaceable
from cotap_mm.registry import TRANSFORMS, build
from cotap_mm.visualization import Report
from cotap_mm.visualization.figures.projection import METHODS, join, labeled_patches, project
from cotap_mm.visualization.report import sections
from cotap_mm.visualization.report.before_after import choose_example
from cotap_mm.visualization.report.html import is_report
from cotap_mm.visualization.report.image_set import (
    ImageSet,
    common_size,
    encode_images,
    in_batches,
    read_images,
    spread,
)

LARGEST_SIDE = 16384  # pixels, of an image that is encoded


class NotAvailable(ValueError):
    """A kind of picture that these checkpoints, images or options do not allow."""


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('checkpoints', nargs='+', metavar='[NAME=]CHECKPOINT')
    parser.add_argument(
        '--images', required=True, help='folder (read recursively), text list or COCO json'
    )
    parser.add_argument('--ann-file', help='text list or COCO json of the images in --images')
    parser.add_argument(
        '--value-range',
        type=float,
        nargs=2,
        metavar=('LOW', 'HIGH'),
        help='for '
        'images of more than 8 bits: values that become black and white (default: '
        'found from the images)',
    )
    parser.add_argument(
        '--out',
        type=out_folder,
        required=True,
        help='folder for report.html and the PNG files; those of an earlier report are replaced',
    )
    add_overwrite(parser)
    parser.add_argument(
        '--kinds', nargs='+', choices=list(KINDS), metavar='KIND', help=', '.join(KINDS)
    )
    parser.add_argument(
        '--labels',
        help='folder of masks with the names of the images: class indices, 255 is ignored',
    )
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='of class 0, 1, ...')
    parser.add_argument(
        '--size',
        type=positive_int,
        nargs=2,
        metavar=('H', 'W'),
        help='of all images; by '
        'default that of the first one, its longer side at most 448. Networks get '
        'it rounded to whole patches',
    )
    parser.add_argument(
        '--limit', type=int, default=6, help='images to show, evenly spread (default: %(default)s)'
    )
    parser.add_argument(
        '--pool',
        type=positive_int,
        default=60,
        help='images to search for prototypes and classes (default: %(default)s)',
    )
    parser.add_argument(
        '--patch',
        type=int,
        nargs=3,
        metavar=('IMAGE', 'ROW', 'COL'),
        help='for similarity: number of the image in the report, and place on the '
        'grid of the first checkpoint, all from 0; by default an object, by the '
        'labels or the foreground mask',
    )
    parser.add_argument('--clusters', type=positive_int, default=12, help='default: %(default)s')
    parser.add_argument(
        '--projection',
        choices=METHODS,
        default='lda',
        help='for classes: linear discriminants (default) or principal components',
    )
    parser.add_argument('--scale', type=float, default=1.0, help='encode images this much larger')
    parser.add_argument(
        '--window',
        type=positive_int,
        help='encode in overlapping windows of this many '
        'pixels, averaged (pca, similarity, clusters, compare, classes)',
    )
    parser.add_argument('--config', help='training config whose crops are shown')
    parser.add_argument(
        '--output',
        choices=('filter', 'backbone'),
        help='features after the object-aware filter (default where there is one) or before it',
    )
    parser.add_argument(
        '--network',
        choices=('student', 'teacher'),
        help='network to load, if a checkpoint has both',
    )
    parser.add_argument(
        '--branch', action=RenamedOption, new='--network', choices=('student', 'teacher')
    )
    parser.add_argument('--num-heads', type=positive_int, help='where a file does not tell')
    parser.add_argument(
        '--trust',
        action='store_true',
        help='unpickle the checkpoints fully: they can run code; known files only',
    )
    add_device(parser)
    return parser.parse_args(argv)


class Study:
    """Checkpoints and images, read and encoded when they are first needed.

    Args:
        args (argparse.Namespace): See :func:`parse_args`.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.checkpoints = named_checkpoints(args.checkpoints)
        self.source = open_images(args.images, args.ann_file, args.value_range or 'auto')
        self.labels = ImageMaskFolder(args.images, args.labels) if args.labels else None
        options = dict(
            device=args.device,
            network=args.network,
            output=args.output,
            trust=args.trust,
            num_heads=args.num_heads,
        )
        torch.manual_seed(0)  # random weights are the same in every run
        self.encoders: dict[str, Encoder] = {
            name: cotap_mm.load(checkpoint, **options)
            for name, checkpoint in self.checkpoints.items()
        }
        patch_size = next(iter(self.encoders.values())).patch_size
        first = self.source.read(0)
        height, width = args.size or common_size(first, patch_size)
        if not 0 < args.scale < math.inf:
            raise ValueError(f'--scale must be positive, got {args.scale}')
        self.size = round(height * args.scale), round(width * args.scale)
        if not 1 <= min(self.size) <= max(self.size) <= LARGEST_SIDE:
            raise ValueError(
                f'images must have 1 to {LARGEST_SIDE} pixels a side, got '
                f'{self.size[0]} x {self.size[1]}; change --size or --scale'
            )
        self.shown = self._read(args.limit)

    def _read(self, limit: int) -> ImageSet:
        return read_images(self.source, spread(len(self.source), limit), self.size, self.labels)

    @cached_property
    def pool(self) -> ImageSet:
        """More images than are shown."""
        return self._read(self.args.pool)

    @cached_property
    def features(self) -> dict[str, Tensor]:
        """Patch features of the shown images for each checkpoint."""
        return {
            name: encode_images(encoder, self.shown.pixels, self.args.window)
            for name, encoder in self.encoders.items()
        }

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes; their numbers where there are none."""
        labels = [label[label != 255] for label in (*self.shown.labels, *self.pool.labels)]
        highest = max((int(label.max()) for label in labels if len(label)), default=-1)
        names = self.args.classes or [f'class {index}' for index in range(highest + 1)]
        if highest >= len(names):
            raise ValueError(
                f'--classes names {len(names)} classes, but the labels go up to class '
                f'{highest}, counted from 0; name all {highest + 1}'
            )
        return names

    @cached_property
    def patch(self) -> tuple[tuple[int, int, int], str]:
        """The patch to follow (image, row, column), and what it shows if that is known."""
        encoder = next(iter(self.encoders.values()))
        grid = encoder.grid(*self.size)
        if self.args.patch:
            image, row, column = self.args.patch
            if not (
                0 <= image < len(self.shown.pixels) and 0 <= row < grid[0] and 0 <= column < grid[1]
            ):
                raise ValueError(
                    f'--patch must be an image 0..{len(self.shown.pixels) - 1} and a place on the '
                    f'{grid[0]} x {grid[1]} grid, from 0, got {image} {row} {column}'
                )
            return (image, row, column), ''
        if self.labels is not None:
            found = choose_example(encoder, self.shown.pixels, self.shown.labels, self.classes)
            return (found.image, *found.patch), found.name
        return (0, *_middle_of_foreground(encoder, self.shown, grid)), ''

    def each_that_can(self, compute: Callable[[Encoder], Any]) -> dict[str, Any]:
        """``compute`` of each checkpoint that allows it; says which do not.

        Raises:
            NotAvailable: If none does.
        """
        found, reasons = {}, {}
        for name, encoder in self.encoders.items():
            try:
                found[name] = compute(encoder)
            except NotImplementedError as error:
                reasons[name] = str(error)
        if not found:
            raise NotAvailable('; '.join(f'{name}: {reason}' for name, reason in reasons.items()))
        for name, reason in reasons.items():
            print(f'  without {name}: {reason}')
        return found


def _middle_of_foreground(
    encoder: Encoder, images: ImageSet, grid: tuple[int, int]
) -> tuple[int, int]:
    """The foreground patch of the first image that is nearest to its middle."""
    middle = np.array(grid) // 2
    try:
        mask = in_batches(encoder.foreground, images.pixels[:1])[0].numpy()
    except NotImplementedError:
        return int(middle[0]), int(middle[1])
    places = np.argwhere(mask)
    row, column = places[((places - middle) ** 2).sum(axis=1).argmin()]
    return int(row), int(column)


def show_pca(report: Report, study: Study) -> None:
    sections.add_components(report, study.shown, study.features)


def show_similarity(report: Report, study: Study) -> None:
    sections.add_similarity(report, study.shown, study.features, *study.patch)


def show_clusters(report: Report, study: Study) -> None:
    sections.add_clusters(report, study.shown, study.features, study.args.clusters)


def show_comparison(report: Report, study: Study) -> None:
    if len(study.encoders) < 2:
        raise NotAvailable('needs two checkpoints or more, got one')
    sections.add_comparison(
        report, study.shown, study.features, study.patch[0], study.args.clusters
    )


def show_attention(report: Report, study: Study) -> None:
    def compute(encoder: Encoder) -> tuple[Tensor, Tensor]:
        return (
            in_batches(encoder.cls_attention, study.shown.pixels),
            in_batches(encoder.foreground, study.shown.pixels),
        )

    for number, (name, found) in enumerate(study.each_that_can(compute).items()):
        sections.add_attention(report, study.shown, name, *found, number)


def show_prototypes(report: Report, study: Study) -> None:
    def compute(encoder: Encoder) -> Tensor:
        def mean_attention(images: Tensor) -> Tensor:  # heads would not fit for many images
            return encoder.prototype_attention(images).mean(dim=1, keepdim=True)

        return in_batches(mean_attention, study.pool.pixels)

    for number, (name, found) in enumerate(study.each_that_can(compute).items()):
        sections.add_prototypes(report, study.pool, name, found, number)


def show_classes(report: Report, study: Study) -> None:
    if study.labels is None:
        raise NotAvailable('needs --labels')
    pool, planes = study.pool, {}
    for name, encoder in study.encoders.items():
        parts = [
            labeled_patches(
                encode_images(encoder, [image], study.args.window), label, len(study.classes), index
            )
            for index, (image, label) in enumerate(zip(pool.pixels, pool.labels))
        ]
        planes[name] = project(join(parts), study.args.projection)
    sections.add_classes(report, planes, study.classes, len(pool.pixels), study.args.projection)


def show_crops(report: Report, study: Study) -> None:
    crop = MultiCrop()
    if study.args.config:
        config = load_config(study.args.config, needs_model=False)
        if not run_config.is_pretraining(config):
            raise NotAvailable(f'{study.args.config} does not pre-train; give one of configs/cotap')
        crops = config.train_dataloader.dataset.get('crops', {})
        crop = build(TRANSFORMS, dict(crops, type='MultiCrop'))
    random, found = np.random.default_rng(0), []
    images = [study.source.read(i) for i in spread(len(study.source), 3)]
    for image in images:
        global_crops, local_crops, boxes = crop(image, random)
        views = [each.numpy() for each in (*global_crops, *local_crops)]
        found.append((views, boxes))
    sections.add_crops(report, images, found, crop.num_global)


# In the order of the report.
KINDS: dict[str, Callable[[Report, Study], None]] = dict(
    compare=show_comparison,
    pca=show_pca,
    similarity=show_similarity,
    clusters=show_clusters,
    attention=show_attention,
    prototypes=show_prototypes,
    classes=show_classes,
    crops=show_crops,
)


def make_report(study: Study) -> Report:
    """Tables and pictures of all kinds that are asked for, or possible.

    Raises:
        NotAvailable: If a kind that was asked for is not possible.
    """
    args = study.args
    text = (
        f'{len(study.shown.pixels)} of {len(study.source)} images, evenly spread, all resized '
        f'to {study.size[0]} x {study.size[1]} pixels (height x width) whatever their shape'
        + (f', encoded in overlapping windows of {args.window} pixels' if args.window else '')
        + '.'
    )
    print(text)
    report = Report('Patch features', text)
    report.add_table(
        'Checkpoints',
        'Channels are those of the features that are shown.',
        ['name', 'checkpoint', 'patch', 'channels', 'patches'],
        [
            [
                name,
                study.checkpoints[name],
                f'{encoder.patch_size} px',
                study.features[name].shape[1],
                ' x '.join(str(side) for side in study.features[name].shape[2:]),
            ]
            for name, encoder in study.encoders.items()
        ],
    )
    for kind, show in KINDS.items():
        if args.kinds and kind not in args.kinds:
            continue
        try:
            show(report, study)
        except NotAvailable as error:
            if args.kinds:
                raise NotAvailable(f'--kinds {kind}: {error}') from error
            print(f'{kind}: left out, {error}')
        else:
            print(f'{kind}: done')
    return report


@tool
def main(argv: Optional[list[str]] = None) -> None:
    args = parse_args(argv)
    with report_user_errors(BadImage):
        check_replaceable(
            Path(args.out) / 'report.html', is_report, 'a report of this tool', args.overwrite
        )
        page = make_report(Study(args)).save(args.out)
    print(f'report: {page}')


if __name__ == '__main__':
    main()
