"""Look at features in the browser: click a patch and see what is similar to it, everywhere.

    pip install gradio
    python tools/viewer.py work_dirs/vits_coco/iter_240000.pth DIR
    python tools/viewer.py after=FILE DIR --compare before=timm:vit_small_patch16_224.dino

A checkpoint is anything that cotap_mm.load takes; NAME=CHECKPOINT gives it a name. The page is
served on this machine only, unless --host says otherwise; anybody who reaches it sees the images.
"""
from __future__ import annotations

import argparse
import socket
from typing import List, Optional

import torch

import cotap_mm
from cotap_mm.command_line import short_errors
from cotap_mm.datasets import open_images
from cotap_mm.visualization.checkpoint_titles import named_checkpoints
from cotap_mm.visualization.feature_browser import FeatureBrowser
from cotap_mm.visualization.image_set import common_size, spread


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', metavar='[NAME=]CHECKPOINT')
    parser.add_argument('images', help='folder (read recursively), text list, COCO json or '
                        '*.lmdb')
    parser.add_argument('--compare', nargs='+', default=[], metavar='[NAME=]CHECKPOINT',
                        help='further rows')
    parser.add_argument('--output', choices=['filter', 'backbone'], help='with or without the '
                        'object-aware filter; by default with, where there is one')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help='of all images; by '
                        'default that of the first one, its longer side at most 448')
    parser.add_argument('--shown', type=int, default=4, help='images at the start')
    parser.add_argument('--num-heads', type=int, help='attention heads, where a file does not tell')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--host', default='127.0.0.1')
    parser.add_argument('--port', type=int, default=7860)
    return parser.parse_args(argv)


def make_browser(args: argparse.Namespace) -> FeatureBrowser:
    """Load networks and list images."""
    encoders = {}
    for name, checkpoint in named_checkpoints([args.checkpoint, *args.compare]).items():
        torch.manual_seed(0)  # of random: weights
        encoders[name] = cotap_mm.load(checkpoint, device=args.device, output=args.output,
                                       num_heads=args.num_heads)
    source = open_images(args.images)
    size = tuple(args.size) if args.size else common_size(
        source.read(0), max(encoder.patch_size for encoder in encoders.values()))
    return FeatureBrowser(encoders, source, size)


def check_port(host: str, port: int) -> None:
    """Refuse a port that is taken before anything is computed."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(f'cannot serve on {host}:{port} ({error.strerror}); choose another '
                             'with --port') from error


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    with short_errors():
        from cotap_mm.visualization.browser_page import build_page, serve
        check_port(args.host, args.port)
        browser = make_browser(args)
        shown = spread(len(browser.source), args.shown)
        page = build_page(browser, shown, 'Features of ' + ' and '.join(browser.encoders))
    print(f'open http://{args.host}:{args.port} (Ctrl-C ends)', flush=True)
    serve(page, args.host, args.port)


if __name__ == '__main__':
    main()
