"""Config of a test, from the command line of ``cotap test``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config

from cotap_mm.command_line.config_file import load_config
from cotap_mm.engine.backbones import set_backbones_init
from cotap_mm.engine.launch import config as run_config
from cotap_mm.engine.launch import testing


def build_config(args: argparse.Namespace) -> Config:
    """Return the config with the options of the command line."""
    config = load_config(args.config)
    if run_config.is_pretraining(config):
        raise ValueError(
            f'{args.config} is for pre-training and has no test; evaluate its features with '
            'cotap evaluate, or with a config of configs/downstream'
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
