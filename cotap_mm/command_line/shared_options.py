"""Options that several tools have: how a checkpoint is loaded, and how images are read."""

from __future__ import annotations

import argparse

from cotap_mm.deprecation import OldPositional, RenamedOption

from .arguments import KeyValues, Parser, out_folder, positive_int


def add_images(parser: Parser, text: str) -> None:
    """Add ``--images``, which is required, and its former spelling as the last positional.

    Args:
        parser (Parser): Parser of the tool.
        text (str): Help.
    """
    parser.add_argument('--images', help=text)
    parser.add_argument('old_images', action=OldPositional, new='--images')
    parser.needed.append('--images')


def add_ann_file(parser: argparse.ArgumentParser, images: str = 'the folder') -> None:
    """Add ``--ann-file``.

    Args:
        parser (ArgumentParser): Parser of the tool.
        images (str): Argument that names the images, for the help. Defaults to 'the folder'.
    """
    parser.add_argument('--ann-file', help=f'text list or COCO json of the images in {images}')


def add_value_range(parser: argparse.ArgumentParser) -> None:
    """Add ``--value-range``."""
    parser.add_argument(
        '--value-range',
        type=float,
        nargs=2,
        metavar=('LOW', 'HIGH'),
        help='for images of more than 8 bits: values that become black and white '
        '(default: estimated from the images)',
    )


def add_image_size(parser: argparse.ArgumentParser, note: str = '') -> None:
    """Add ``--size`` of figures, with a ``note`` in the help."""
    parser.add_argument(
        '--size',
        type=positive_int,
        nargs=2,
        metavar=('H', 'W'),
        help='size of all images (default: that of the first one, its longer side at most '
        f'448){note}',
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add ``--output``."""
    parser.add_argument(
        '--output',
        choices=('filter', 'backbone'),
        help='features after the object-aware filter (default if there is one) or before it',
    )


def add_network(
    parser: argparse.ArgumentParser, text: str = 'network to load, if a checkpoint has both'
) -> None:
    """Add ``--network``, with ``text`` as its help, and its former name ``--branch``."""
    networks = ('student', 'teacher')
    parser.add_argument('--network', choices=networks, help=text)
    parser.add_argument('--branch', action=RenamedOption, new='--network', choices=networks)


def add_num_heads(parser: argparse.ArgumentParser) -> None:
    """Add ``--num-heads``."""
    parser.add_argument(
        '--num-heads',
        type=positive_int,
        help='number of attention heads, if a checkpoint does not state it',
    )


def add_trust(parser: argparse.ArgumentParser, files: str = 'checkpoints') -> None:
    """Add ``--trust``, which applies to ``files``."""
    parser.add_argument(
        '--trust',
        action='store_true',
        help=f'unpickle {files} without restrictions, which can run code; only for files that you '
        'trust',
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share."""
    parser.add_argument(
        '--work-dir', type=out_folder, help='logs and checkpoints; work_dirs/CONFIG by default'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        metavar='KEY=VALUE',
        help='override config keys: key=value ...',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
