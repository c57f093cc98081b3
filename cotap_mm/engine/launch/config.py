"""Apply command-line options to a config."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Optional

import torch
from mmengine.config import Config

from cotap_mm.datasets import image_source
from cotap_mm.engine.backbones import set_backbones_init
from cotap_mm.engine.optim.schedules import fit_schedules, training_length

from .overrides import check_overrides, replacing_dicts
from .values import check_values, explained_options


def finish_config(config: Config, args: argparse.Namespace) -> Config:
    """Apply the options of a run (:func:`.add_run_options`), which override everything else.

    Invalid values are rejected (:func:`.check_values`), and values that depend on others are
    adapted, see :func:`adapt_loaders` and :func:`fit_schedules`.

    Args:
        config (Config): Changed in place.
        args (argparse.Namespace): With ``config``, ``work_dir``, ``cfg_options``, ``launcher``.

    Returns:
        Config: The same config.

    Raises:
        ValueError: If an option or value is wrong.
    """
    for launcher, variable, starter in (
        ('pytorch', 'RANK', 'dist_train.sh'),
        ('slurm', 'SLURM_PROCID', 'slurm_train.sh'),
    ):
        if args.launcher == launcher and variable not in os.environ:
            raise ValueError(
                f'--launcher {launcher} needs the environment variable {variable}, '
                f'which is not set; launch the processes with tools/{starter}'
            )
    length = training_length(config)
    config.launcher = args.launcher
    config.work_dir = (
        args.work_dir or config.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    )
    if args.cfg_options:
        check_overrides(config, args.cfg_options)
        with explained_options(args.cfg_options):
            config.merge_from_dict(replacing_dicts(config, args.cfg_options))
    check_values(config)
    adapt_loaders(config)
    fit_schedules(config, length)
    return config


def adapt_loaders(config: Config) -> None:
    """Remove options that need worker processes from data loaders without workers.

    This lets users set only ``num_workers=0``, for training, validation and test of any library.

    Args:
        config (Config): Changed in place.
    """
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loaders = config.get(name)
        for loader in loaders if isinstance(loaders, (list, tuple)) else [loaders]:
            if isinstance(loader, dict) and not loader.get('num_workers'):
                for option in (
                    'persistent_workers',
                    'prefetch_factor',
                    'timeout',
                    'multiprocessing_context',
                ):
                    loader.pop(option, None)


def is_pretraining(config: Config) -> bool:
    """Whether a config pre-trains with CoTAP; other configs are for downstream libraries."""
    return config.get('default_scope', 'cotap_mm') == 'cotap_mm'


def set_images(
    config: Config,
    images: str,
    cls_images: Optional[str] = None,
    neighbors: Optional[str] = None,
    cls_neighbors: Optional[str] = None,
    ann_file: Optional[str] = None,
    cls_ann_file: Optional[str] = None,
    value_range: Optional[Sequence[float]] = None,
) -> None:
    """Replace the training images of a config.

    Args:
        config (Config): Changed in place.
        images (str): Images of the patch branch, and of the CLS branch if ``cls_images`` is
            None: a folder, a list of images, or a packed file.
        cls_images (str, optional): Images of the CLS branch, in the same forms.
        neighbors (str, optional): Neighbor file of ``images``; built if None.
        cls_neighbors (str, optional): Neighbor file of ``cls_images``; built if None.
        ann_file (str, optional): Text list or COCO json of the images in ``images``.
        cls_ann_file (str, optional): Text list or COCO json of the images in ``cls_images``.
        value_range (sequence, optional): (low, high) of images with more than 8 bits, for both
            branches; estimated from the images if None.
    """
    dataset = config.train_dataloader.dataset
    values = 'auto' if value_range is None else list(value_range)
    dataset.patch = image_source(images, ann_file, values)
    dataset.neighbors = neighbors or 'auto'
    dataset.cls = image_source(cls_images, cls_ann_file, values) if cls_images else None
    dataset.cls_neighbors = (cls_neighbors or 'auto') if cls_images else None


def set_init(
    config: Config, checkpoint: str, trust: bool = False, patch_size: Optional[int] = None
) -> None:
    """Set the initial weights: a checkpoint, or random weights for ``'none'``.

    Downstream they are those of the backbone.

    Args:
        config (Config): Changed in place.
        checkpoint (str): File, URL, ``timm:NAME``, a short name, or ``'none'``.
        trust (bool): Whether the file may run code when it is unpickled. Defaults to False.
        patch_size (int, optional): Patch size in pixels to which the patch embedding of the
            checkpoint is resized. Defaults to that of the checkpoint.

    Raises:
        ValueError: If the model has no backbone.
    """
    init_cfg = (
        None
        if checkpoint == 'none'
        else dict(type='cotap_mm.PretrainedViT', checkpoint=checkpoint, trust=trust)
    )
    if patch_size is not None and init_cfg is not None:
        init_cfg['resize_patches'] = True
    if is_pretraining(config):
        config.model.init_cfg = init_cfg
    elif not set_backbones_init(config.model, init_cfg):
        raise ValueError(
            f'--init: the model {config.model.get("type")} has no backbone to load a '
            'checkpoint into; set init_cfg in its config'
        )


def set_log_backends(config: Config, names: Optional[Sequence[str]] = None) -> None:
    """Choose where metrics are logged, besides ``scalars.json`` in the work folder.

    Args:
        config (Config): With ``work_dir`` set; ``visualizer.vis_backends`` is changed in place.
        names (sequence, optional): Any of ``'tensorboard'``, ``'wandb'`` and ``'mlflow'``, or only
            ``'none'``; they replace such backends in the config. Defaults to None: TensorBoard if
            it is installed and the config has no backend of its own.

    Raises:
        ValueError: If a package is not installed, or ``'none'`` is combined with another name.
    """
    run = Path(config.work_dir).name
    logged = ('train_cfg', 'optim_wrapper', 'randomness', 'work_dir')
    backends: dict[str, dict] = dict(
        tensorboard=dict(type='TensorboardVisBackend'),
        wandb=dict(type='WandbVisBackend', init_kwargs=dict(project='cotap', name=run)),
        mlflow=dict(
            type='MLflowVisBackend',
            exp_name='cotap',
            run_name=run,
            # MMEngine would not look at the variable.
            tracking_uri=os.environ.get('MLFLOW_TRACKING_URI'),
            tracked_config_keys=[key for key in logged if key in config],
        ),
    )
    if not config.get('visualizer'):
        config.visualizer = dict(type='mmengine.Visualizer')
    own = list(config.visualizer.get('vis_backends') or [dict(type='LocalVisBackend')])
    if names is None:
        is_default = [backend.get('type') for backend in own] == ['LocalVisBackend']
        names = ['tensorboard'] if is_default and find_spec('tensorboard') else ()
        kept = own
    else:
        ours = [backend['type'] for backend in backends.values()]
        kept = [backend for backend in own if str(backend.get('type')).split('.')[-1] not in ours]
    if 'none' in names and len(set(names)) > 1:
        raise ValueError(f'--log none excludes all others, got --log {" ".join(names)}')
    chosen = [name for name in dict.fromkeys(names) if name != 'none']
    for name in chosen:
        if find_spec(name) is None:
            raise ValueError(
                f'--log {name} needs a package that is not installed: pip install {name}'
            )
    config.visualizer.vis_backends = [*kept, *(backends[name] for name in chosen)]


def set_seed(config: Config, seed: int) -> None:
    """Set the random seed, and keep the other ``randomness`` keys of the config."""
    config.randomness = dict(config.get('randomness', {}), seed=seed)


def set_mixed_precision(config: Config) -> None:
    """Train in bfloat16 on CPUs and GPUs that support it, else in float16."""
    config.optim_wrapper.type = 'cotap_mm.MixedPrecisionOptimWrapper'
    config.optim_wrapper.dtype = 'auto' if torch.cuda.is_available() else 'bfloat16'
