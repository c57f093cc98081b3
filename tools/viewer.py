"""Look at features in the browser: click a patch and see what is similar to it, everywhere.

    pip install gradio
    python tools/viewer.py work_dirs/vits_coco/iter_240000.pth DIR
    python tools/viewer.py after=FILE DIR --compare before=timm:vit_small_patch16_224.dino

A checkpoint is anything that cotap_mm.load takes; NAME=CHECKPOINT gives it a name. The page is
served on this machine only, unless --host says otherwise; anybody who reaches it sees the images.
It takes no uploads, gives out no files, and shows no image that a link leads to outside of the
folder (--follow-links shows those too).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import torch

import cotap_mm
from cotap_mm.command_line.arguments import Parser, add_device, positive_int, whole_number
from cotap_mm.command_line.checkpoint_names import named_checkpoints
from cotap_mm.command_line.tool import report_user_errors, tool
from cotap_mm.datasets import ImageList, open_images
from cotap_mm.datasets.sources.files import BadImage
from cotap_mm.files.atomic_write import printable
from cotap_mm.visualization.report.image_set import common_size, spread
from cotap_mm.visualization.viewer.address import check_port, host_name, root_path
from cotap_mm.visualization.viewer.confined_images import ConfinedImages
from cotap_mm.visualization.viewer.render import MOST_SHOWN, FeatureBrowser
from cotap_mm.visualization.viewer.request_filter import is_loopback


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('checkpoint', metavar='[NAME=]CHECKPOINT')
    parser.add_argument('images', help='folder (read recursively), text list, COCO json or *.lmdb')
    parser.add_argument(
        '--compare', nargs='+', default=[], metavar='[NAME=]CHECKPOINT', help='further rows'
    )
    parser.add_argument(
        '--output',
        choices=['filter', 'backbone'],
        help='with or without the object-aware filter; by default with, where there is one',
    )
    parser.add_argument(
        '--size',
        type=positive_int,
        nargs=2,
        metavar=('H', 'W'),
        help='of all images; by default that of the first one, its longer side at most 448',
    )
    parser.add_argument('--ann-file', help='text list or COCO json of the images in the folder')
    parser.add_argument(
        '--value-range',
        type=float,
        nargs=2,
        metavar=('LOW', 'HIGH'),
        help='for '
        'images of more than 8 bits: values that become black and white (default: '
        'found from the images)',
    )
    parser.add_argument('--shown', type=positive_int, default=4, help='images at the start')
    parser.add_argument(
        '--follow-links',
        action='store_true',
        help='show images too that lie outside of the folder, where links or the list lead there',
    )
    parser.add_argument(
        '--num-heads', type=positive_int, help='attention heads, where a file does not tell'
    )
    add_device(parser)
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address or name to listen at (default: %(default)s, this machine only)',
    )
    parser.add_argument(
        '--port',
        type=whole_number(0, 65535),
        default=7860,
        metavar='N',
        help='TCP port, 0 for any free one (default: %(default)s)',
    )
    parser.add_argument(
        '--allow-host',
        action='append',
        default=[],
        type=host_name,
        metavar='NAME[:PORT]',
        help='name under which a reverse proxy shows the '
        'page; may be repeated. With it, requests under other names than these '
        'and those of this machine are refused',
    )
    parser.add_argument(
        '--root-path',
        type=root_path,
        metavar='/PATH|URL',
        help='path under which a reverse proxy shows the page, or its whole URL '
        'if the proxy does not send X-Forwarded-Proto and X-Forwarded-Host',
    )
    return parser.parse_args(argv)


def make_browser(args: argparse.Namespace) -> FeatureBrowser:
    """Load networks and list images."""
    encoders = {}
    for name, checkpoint in named_checkpoints([args.checkpoint, *args.compare]).items():
        torch.manual_seed(0)  # of random: weights
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
    """The images; those that lie outside of their folder only if asked for."""
    source = open_images(images, ann_file, value_range or 'auto')
    if follow_links or not isinstance(source, ImageList):
        return source
    source = ConfinedImages(source)
    if source.left_out:
        print(
            f'without {len(source.left_out)} images that lie outside of {images}, the first is '
            f'{printable(source.left_out[0])} (--follow-links shows them)'
        )
    return source


def first_readable(source: Any, attempts: int = 100) -> np.ndarray:
    """Pixels of the first image that can be decoded; ``BadImage`` if there is none at once."""
    reasons = []
    for index in range(min(attempts, len(source))):
        try:
            return source.read(index)
        except BadImage as error:
            reasons.append(error)
    raise BadImage(f'none of the first {len(reasons)} images can be read: {reasons[0]}')


def choose_shown(browser: FeatureBrowser, limit: int) -> list[int]:
    """Images at the start: evenly spread, without those that cannot be read."""
    wanted = spread(len(browser.source), min(limit, MOST_SHOWN))
    shown = [index for index in wanted if browser.is_readable(index)]
    for index in sorted(set(wanted) - set(shown)):
        print(f'without {browser.names[index]}, which cannot be read')
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
        print('Anybody who reaches this machine can see the images; there is no password.')
    shown = f'[{args.host}]' if ':' in args.host else args.host
    print(f'open http://{shown}:{args.port} (Ctrl-C ends)', flush=True)
    serve(page, args.host, args.port, names=args.allow_host, root_path=args.root_path or '')


if __name__ == '__main__':
    main()
