"""Config of a training, from the command line of ``cotap train``, and the memory it needs."""

from __future__ import annotations

import argparse

from mmengine.config import Config
from mmengine.dist import is_main_process

from cotap_mm.command_line.config_file import load_config
from cotap_mm.distributed.first_rank import on_first_rank
from cotap_mm.engine.adaptation import LORA, TRAINABLE
from cotap_mm.engine.launch import config as run_config
from cotap_mm.engine.shape import request_shape
from cotap_mm.planning.preview import preview_memory


def build_config(args: argparse.Namespace) -> Config:
    """Return the config with the options of the command line."""
    config = load_config(args.config)
    options = (
        args.images,
        args.cls_images,
        args.neighbors,
        args.cls_neighbors,
        args.ann_file,
        args.cls_ann_file,
        args.value_range,
    )
    if any(options) and not run_config.is_pretraining(config):
        raise ValueError(
            '--images, --cls-images and related options are for pre-training, but '
            f'{args.config} is for {config.default_scope}; set its data in the config'
        )
    if args.cls_ann_file and not args.cls_images:
        raise ValueError('--cls-ann-file requires --cls-images')
    if args.images:
        run_config.set_images(config, *options)
    elif any(options):
        raise ValueError(
            '--cls-images, --neighbors, --cls-neighbors, --ann-file and --value-range '
            'require --images'
        )
    if args.init:
        if args.patch_size and not run_config.is_pretraining(config):
            raise ValueError('--patch-size is for pre-training; set it in the config')
        run_config.set_init(config, args.init, args.trust, args.patch_size)
        if run_config.is_pretraining(config):
            request_shape(config, args.cfg_options, args.patch_size)
    elif args.trust:
        raise ValueError('--trust requires --init')
    elif args.patch_size:
        raise ValueError('--patch-size requires --init')
    if args.trainable_blocks is not None:
        if not run_config.is_pretraining(config):
            raise ValueError(
                '--trainable-blocks is for pre-training; set model.backbone.frozen_stages'
            )
        config[TRAINABLE] = args.trainable_blocks
    if args.lora is not None:
        if not run_config.is_pretraining(config):
            raise ValueError('--lora is for pre-training')
        config[LORA] = args.lora
    if args.amp:
        run_config.set_mixed_precision(config)
    if args.seed is not None:
        run_config.set_seed(config, args.seed)
    if args.auto_scale_lr:
        if 'auto_scale_lr' not in config:
            raise ValueError(
                f'--auto-scale-lr: {args.config} does not set the number of images per step for '
                'which its learning rate was chosen; add auto_scale_lr=dict(base_batch_size=...)'
            )
        config.auto_scale_lr.enable = True
    config.resume = bool(args.resume or config.get('resume'))
    run_config.finish_config(config, args)
    run_config.set_log_backends(config, ['none'] if args.dry_run else args.log)
    return config


def print_memory(config: Config) -> None:
    """Print the memory that a pre-training needs, before it is built for a dry run.

    Args:
        config (Config): Prepared to be built.

    Raises:
        ValueError: If this machine has too little.
    """
    if not run_config.is_pretraining(config):
        return
    text, shortage = on_first_rank(lambda: preview_memory(config))
    if is_main_process():
        print(text, flush=True)
    if shortage:
        raise ValueError(shortage)
