"""Options that several tools have: how a checkpoint is loaded, and how images are read."""

from __future__ import annotations

import argparse

from cotap_mm.deprecation import OldPositional, RenamedOption

from .arguments import KeyValues, Parser, out_folder, positive_int, whole_number


def add_images(parser: Parser, text: str) -> None:
    """Add ``--images``, which is required, and its former spelling as the last positional.

    Args:
        parser (Parser): Parser of the tool.
        text (str): Help.
    """
    parser.add_argument('--images', metavar='PATH', help=f'{text} (required)')
    parser.add_argument('old_images', action=OldPositional, new='--images')
    parser.needed.append('--images')


def add_ann_file(parser: argparse.ArgumentParser, images: str = 'the folder') -> None:
    """Add ``--ann-file``.

    Args:
        parser (ArgumentParser): Parser of the tool.
        images (str): Argument that names the images, for the help. Defaults to 'the folder'.
    """
    parser.add_argument(
        '--ann-file',
        metavar='FILE',
        help=f'text list or COCO json of the images in {images} (default: all)',
    )


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
    parser: argparse.ArgumentParser,
    text: str = 'network to load, if a checkpoint has both (default: the student of CoTAP, the '
    'teacher of DINO, iBOT and Mugs)',
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
        help='number of attention heads, for a checkpoint that does not state it (default: from '
        'the checkpoint)',
    )


def add_weights_seed(parser: argparse.ArgumentParser) -> None:
    """Add ``--seed``, that of random weights."""
    parser.add_argument(
        '--seed',
        type=whole_number(0, 2**32 - 1),
        default=0,
        metavar='N',
        help='seed of the weights of random: backbones',
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
        '--work-dir', type=out_folder, help='logs and checkpoints (default: work_dirs/CONFIG)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        metavar='KEY=VALUE',
        help='override keys of the config, e.g. train_cfg.max_iters=1000 (default: none)',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm'],
        default='none',
        help='what started the processes: torchrun (pytorch), srun (slurm), or nothing',
    )
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=0,
        help='number of this process on its machine; launchers set it',
    )
