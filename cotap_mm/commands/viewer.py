"""Page of ``cotap viewer``: load the networks, list the images, serve."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import torch

from cotap_mm.command_line.checkpoint_names import named_checkpoints
from cotap_mm.command_line.tool import report_user_errors
from cotap_mm.datasets import ImageList, open_images
from cotap_mm.datasets.sources.files import BadImage
from cotap_mm.encoders.load import load
from cotap_mm.files.atomic_write import printable
from cotap_mm.ops.sampling import evenly_spaced
from cotap_mm.visualization.report.image_set import common_size
from cotap_mm.visualization.viewer.address import check_port
from cotap_mm.visualization.viewer.confined_images import ConfinedImages
from cotap_mm.visualization.viewer.links import FigureCommand, file_name
from cotap_mm.visualization.viewer.render import MOST_SHOWN, FeatureBrowser
from cotap_mm.visualization.viewer.request_filter import is_loopback


def make_browser(args: argparse.Namespace) -> FeatureBrowser:
    """Load the networks and list the images."""
    encoders = {}
    for name, checkpoint in named_checkpoints([*args.checkpoints, *args.compare]).items():
        torch.manual_seed(0)  # for random: weights
        encoders[name] = load(
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


def figure_command(args: argparse.Namespace, browser: FeatureBrowser) -> FigureCommand:
    """Describe the command line, for the commands that the page shows."""
    options = []
    for name in ('output', 'num_heads', 'ann_file', 'value_range'):
        value = getattr(args, name)
        if value:
            values = value if isinstance(value, (list, tuple)) else [value]
            words = [file_name(str(each)) if name == 'ann_file' else str(each) for each in values]
            options += ['--' + name.replace('_', '-'), *words]
    return FigureCommand(
        named_checkpoints([*args.checkpoints, *args.compare]),
        args.images,
        browser.size,
        {name: encoder.grid(*browser.size) for name, encoder in browser.encoders.items()},
        options,
    )


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
    confined = ConfinedImages(source)
    if confined.skipped:
        print(
            f'skipped {len(confined.skipped)} images outside of {images}, the first is '
            f'{printable(confined.skipped[0])} (--follow-links includes them)'
        )
    return confined


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


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    with report_user_errors(BadImage):
        from cotap_mm.visualization.viewer.app import build_page, serve

        args.port = check_port(args.host, args.port)
        browser = make_browser(args)
        page = build_page(
            browser,
            choose_shown(browser, args.shown),
            'Features of ' + ' and '.join(browser.encoders),
            figure_command(args, browser),
        )
    if not is_loopback(args.host):
        print('warning: no password protects the images from anyone who can connect to this host')
    shown = f'[{args.host}]' if ':' in args.host else args.host
    print(f'open http://{shown}:{args.port} (Ctrl-C to stop)', flush=True)
    serve(page, args.host, args.port, names=args.allow_host, root_path=args.root_path or '')
