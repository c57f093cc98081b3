"""Test a trained model of MMSegmentation, MMDetection or MMPretrain.

    python tools/test.py configs/downstream/ade20k_upernet.py work_dirs/.../iter_160000.pth
    python tools/test.py CONFIG CHECKPOINT --tta --show-dir pictures --out predictions
    tools/dist_test.sh configs/downstream/ade20k_upernet.py work_dirs/.../iter_160000.pth 8

The options are those of ``mim test``. With --out, MMSegmentation writes one PNG of class indices
per image to a folder; the other libraries write a pickle file. --show-dir saves a picture of every
image with its prediction.
"""

from __future__ import annotations

import early_stop  # noqa: F401  (before imports that take seconds)

import argparse
from pathlib import Path
from typing import Optional

from mmengine.config import Config

from cotap_mm.command_line.arguments import Parser
from cotap_mm.command_line.config_file import load_config
from cotap_mm.command_line.tool import tool
from cotap_mm.engine.backbones import set_backbones_init
from cotap_mm.engine.launch import config as run_config
from cotap_mm.engine.launch import testing
from cotap_mm.engine.launch.commands import test_command


def parse_args(argv: Optional[list[str]] = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('config', help='config file, e.g. configs/downstream/ade20k_upernet.py')
    parser.add_argument('checkpoint', help='checkpoint of a training with this config')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation: tta_model and tta_pipeline of the config, or flips if it '
        'has none',
    )
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='save predictions: a folder (MMSegmentation) or a .pkl file (MMDetection, MMPretrain)',
    )
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', metavar='DIR', help='save pictures of the predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds for --show')
    run_config.add_common_arguments(parser)
    return parser.parse_args(argv)


def build_config(args: argparse.Namespace) -> Config:
    config = load_config(args.config)
    if run_config.is_pretraining(config):
        raise ValueError(
            f'{args.config} is for pre-training and has no test; evaluate its features with '
            'tools/evaluate.py, or with a config of configs/downstream'
        )
    if not Path(args.checkpoint).is_file():
        raise FileNotFoundError(f'checkpoint {args.checkpoint} is not a file')
    config.load_from = args.checkpoint
    run_config.finish_config(config, args)
    set_backbones_init(config.model, None)  # all weights come from the checkpoint
    testing.keep_test_only(config, args.config)
    if args.show or args.show_dir:
        if args.tta and config.default_scope == 'mmpretrain':
            raise ValueError(
                '--show-dir and --tta cannot be combined for mmpretrain, which draws single '
                'views; use them in separate runs'
            )
        testing.draw_predictions(config, args.show_dir, args.show, args.wait_time)
    if args.tta:
        testing.augment(config)
    if args.out:
        testing.save_predictions(config, args.out)
    return config


@tool
def main(argv: Optional[list[str]] = None) -> None:
    args = parse_args(argv)
    test_command(args, lambda: build_config(args), args.out)


if __name__ == '__main__':
    main()
