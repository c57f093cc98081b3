"""Explore features in the browser: click a patch to see the similar patches in all images.

    pip install gradio
    python tools/viewer.py work_dirs/vits_coco/iter_240000.pth DIR
    python tools/viewer.py after=FILE DIR --compare before=timm:vit_small_patch16_224.dino

A checkpoint is anything that cotap_mm.load accepts; NAME=CHECKPOINT sets its name. By default the
page is served on this machine only; see --host. Anyone who can reach it can see the images. It
accepts no uploads, serves no files, and skips images whose symbolic links leave the folder
(--follow-links includes them).
"""

from __future__ import annotations

import early_stop  # noqa: F401  (before imports that take seconds)

import argparse
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import torch

import cotap_mm
from cotap_mm.command_line.arguments import Parser, add_device, positive_int, whole_number
from cotap_mm.command_line.checkpoint_names import named_checkpoints
from cotap_mm.command_line.shared_options import (
    add_ann_file,
    add_image_size,
    add_num_heads,
    add_output,
    add_value_range,
)
from cotap_mm.command_line.tool import report_user_errors, tool
from cotap_mm.datasets import ImageList, open_images
from cotap_mm.datasets.sources.files import BadImage
from cotap_mm.files.atomic_write import printable
from cotap_mm.ops.sampling import evenly_spaced
from cotap_mm.visualization.report.image_set import common_size
from cotap_mm.visualization.viewer.address import check_port, host_name, root_path
from cotap_mm.visualization.viewer.confined_images import ConfinedImages
from cotap_mm.visualization.viewer.render import MOST_SHOWN, FeatureBrowser
from cotap_mm.visualization.viewer.request_filter import is_loopback


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('checkpoint', metavar='[NAME=]CHECKPOINT')
    parser.add_argument('images', help='folder (read recursively), text list, COCO json or *.lmdb')
    parser.add_argument(
        '--compare',
        nargs='+',
        default=[],
        metavar='[NAME=]CHECKPOINT',
        help='more checkpoints, one row each',
    )
    add_output(parser)
    add_image_size(parser)
    add_ann_file(parser)
    add_value_range(parser)
    parser.add_argument(
        '--shown',
        type=positive_int,
        default=4,
        help='number of images that are shown first (default: %(default)s)',
    )
    parser.add_argument(
        '--follow-links',
        action='store_true',
        help='also show images outside of the folder that links or the list refer to',
    )
    add_num_heads(parser)
    add_device(parser)
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address or name to listen on (default: %(default)s, this machine only)',
    )
    parser.add_argument(
        '--port',
        type=whole_number(0, 65535),
        default=7860,
        metavar='N',
        help='TCP port; 0 chooses a free one (default: %(default)s)',
    )
    parser.add_argument(
        '--allow-host',
        action='append',
        default=[],
        type=host_name,
        metavar='NAME[:PORT]',
        help='host name under which a reverse proxy serves the page; can be repeated. Requests '
        'with other names than these and those of this machine are then rejected',
    )
    parser.add_argument(
        '--root-path',
        type=root_path,
        metavar='/PATH|URL',
        help='path under which a reverse proxy serves the page, or its full URL '
        'if the proxy does not send X-Forwarded-Proto and X-Forwarded-Host',
    )
    return parser.parse_args(argv)


def make_browser(args: argparse.Namespace) -> FeatureBrowser:
    """Load the networks and list the images."""
    encoders = {}
    for name, checkpoint in named_checkpoints([args.checkpoint, *args.compare]).items():
        torch.manual_seed(0)  # for random: weights
        encoders[name] = cotap_mm.load(
            checkpoint, device=args.device, output=args.output, num_heads=args.num_heads
        )
    source = open_source(args.images, args.follow_links, args.ann_file, args.value_range)
    size = (
        tuple(args.size)
        if args.size
        else common_size(
            first_readable(source), max(encoder.patch_size for encoder in encoders.values())
        )
    )
    return FeatureBrowser(encoders, source, size)


def open_source(
    images: str,
    follow_links: bool,
    ann_file: Optional[str] = None,
    value_range: Optional[Sequence[float]] = None,
) -> Any:
    """Open the images; skip those outside of the folder unless ``follow_links``."""
    source = open_images(images, ann_file, value_range or 'auto')
    if follow_links or not isinstance(source, ImageList):
        return source
    source = ConfinedImages(source)
    if source.skipped:
        print(
            f'skipped {len(source.skipped)} images outside of {images}, the first is '
            f'{printable(source.skipped[0])} (--follow-links includes them)'
        )
    return source


def first_readable(source: Any, attempts: int = 100) -> np.ndarray:
    """Return the pixels of the first image that can be decoded.

    Raises:
        BadImage: If none of the first ``attempts`` images can be decoded.
    """
    reasons = []
    for index in range(min(attempts, len(source))):
        try:
            return source.read(index)
        except BadImage as error:
            reasons.append(error)
    raise BadImage(f'none of the first {len(reasons)} images can be read: {reasons[0]}')


def choose_shown(browser: FeatureBrowser, limit: int) -> list[int]:
    """Choose the images that are shown first: evenly spaced, without unreadable ones."""
    wanted = evenly_spaced(len(browser.source), min(limit, MOST_SHOWN))
    shown = [index for index in wanted if browser.is_readable(index)]
    for index in sorted(set(wanted) - set(shown)):
        print(f'skipped {browser.names[index]}, which cannot be read')
    if shown:
        return shown
    for index in range(len(browser.source)):
        if browser.is_readable(index):
            return [index]
    raise BadImage(f'none of the {len(browser.source)} images can be read')


@tool
def main(argv: Optional[list[str]] = None) -> None:
    args = parse_args(argv)
    with report_user_errors(BadImage):
        from cotap_mm.visualization.viewer.app import build_page, serve

        args.port = check_port(args.host, args.port)
        browser = make_browser(args)
        page = build_page(
            browser,
            choose_shown(browser, args.shown),
            'Features of ' + ' and '.join(browser.encoders),
        )
    if not is_loopback(args.host):
        print('Anyone who can reach this machine can see the images; there is no password.')
    shown = f'[{args.host}]' if ':' in args.host else args.host
    print(f'open http://{shown}:{args.port} (Ctrl-C to stop)', flush=True)
    serve(page, args.host, args.port, names=args.allow_host, root_path=args.root_path or '')


if __name__ == '__main__':
    main()
