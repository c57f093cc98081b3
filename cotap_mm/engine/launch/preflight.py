"""Check and complete a config before a training or test starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Callable, Optional

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log

from cotap_mm.datasets.opened import forget_sources, hand_on
from cotap_mm.datasets.sources.protocol import ImageSource
from cotap_mm.distributed.collectives import world_size
from cotap_mm.engine.adaptation import limit_training
from cotap_mm.engine.auto_neighbors import ensure_neighbors, warn_of_changed_images
from cotap_mm.engine.backbones import find_backbones
from cotap_mm.engine.data_checks.downstream import prepare_downstream
from cotap_mm.engine.hooks.required import complete_downstream_hooks, complete_hooks
from cotap_mm.engine.resume.choice import choose_resume
from cotap_mm.engine.shape import (
    origin,
    pool_sizes,
    restore_shape,
    scaled_pool_sizes,
    shape_by_init,
)
from cotap_mm.engine.trial_build import build_on_trial
from cotap_mm.models.modules import PatchPairSampler
from cotap_mm.registry import DATASETS, MODELS, TRANSFORMS, build, default_of, option_of

from .config import is_pretraining
from .initial_weights import InitialWeights
from .validation import check_config

SetNeighbors = Callable[[Config, Mapping[str, ImageSource]], Any]


def prepare(config: Config, set_neighbors: Optional[SetNeighbors] = None) -> InitialWeights:
    """Check a config, its data and its initial weights, and complete the config.

    Hooks that are missing are added, the checkpoint to resume from is chosen, and a pre-training
    with ``neighbors='auto'`` gets its neighbor files. Every rank must call this.

    Args:
        config (Config): With ``work_dir`` set; changed in place.
        set_neighbors (callable, optional): Called with the config and the opened images of its
            branches, instead of building neighbor files. Defaults to None.

    Returns:
        InitialWeights: To be handed on to the model.

    Raises:
        FileNotFoundError: If images or the init checkpoint do not exist.
        ValueError: If the config has mistakes, there are too few images for one batch, or files
            do not fit.
    """
    weights = InitialWeights()
    if is_pretraining(config):
        _prepare_pretraining(config, weights, set_neighbors)
    else:
        _prepare_downstream(config, weights)
    return weights


def _prepare_pretraining(
    config: Config, weights: InitialWeights, set_neighbors: Optional[SetNeighbors]
) -> None:
    complete_hooks(config)
    check_config(config)
    lost_neighbors = choose_resume(config)
    dataset = config.train_dataloader.dataset
    forget_sources()
    sources = {  # before the initial weights, which may be downloaded
        name: build(DATASETS, dataset[name]) for name in ('patch', 'cls') if dataset.get(name)
    }
    # A resumed run does not need its initial weights, and they may no longer exist.
    init = None if config.get('resume') else weights.detect(config.model)
    if init is not None:
        shape_by_init(config, init)
    if config.get('resume'):
        restore_shape(config)
    else:
        config.started_from = origin(config)
    limit_training(config)
    if not (init or config.get('resume') or config.get('load_from')):
        print_log(
            'training starts from random weights; CoTAP is a post-pretraining, and from '
            'scratch it needs far more images and steps (--init sets a checkpoint)',
            logger='current',
            level=logging.WARNING,
        )
    _check_batch_size(config)
    _check_crop_sizes(config)
    _check_num_images(config, max(map(len, sources.values())))
    _warn_of_few_negatives(config)
    if config.get('resume') and is_main_process():
        for key, branch in (('neighbors', 'patch'), ('cls_neighbors', 'cls')):
            if branch in sources:
                warn_of_changed_images(dataset.get(key) or '', sources[branch])
    build_on_trial(config, sources)
    if set_neighbors is not None:
        set_neighbors(config, sources)
    else:
        ensure_neighbors(
            config, config.work_dir, used_before=lost_neighbors, init=init, sources=sources
        )
    for name, source in sources.items():
        hand_on(dataset[name], source)
    _drop_init_on_resume(config, config.model)


def _prepare_downstream(config: Config, weights: InitialWeights) -> None:
    if config.get('train_dataloader'):
        complete_downstream_hooks(config)
    choose_resume(config)
    prepare_downstream(config)
    for backbone in find_backbones(config.model):
        if not config.get('resume'):
            weights.detect(backbone)
        _drop_init_on_resume(config, backbone)


def _check_batch_size(config: Config) -> None:
    batch = config.train_dataloader.batch_size
    if not isinstance(batch, int) or batch < 1:
        raise ValueError(f'train_dataloader.batch_size must be an integer >= 1, got {batch!r}')


def _check_crop_sizes(config: Config) -> None:
    """Raise a ValueError if a crop size or a pool size does not fit the patches."""
    crops = config.train_dataloader.dataset.get('crops') or {}
    patch = option_of(MODELS, config.model.backbone, 'patch_size')
    for name in ('global_size', 'local_size'):
        if crops.get(name, patch) % patch:
            raise ValueError(
                f'train_dataloader.dataset.crops.{name}={crops[name]} must be a multiple of '
                f'model.backbone.patch_size={patch}, e.g. {max(crops[name] // patch, 1) * patch}'
            )
    grid, sizes = option_of(TRANSFORMS, dict(crops, type='MultiCrop'), 'global_size') // patch, ()
    if config.model.get('losses', {}).get('patch_ranking'):
        sizes = pool_sizes(config)
    if max(sizes, default=0) > grid:
        scaled = ','.join(map(str, scaled_pool_sizes(config, grid / max(sizes))))
        raise ValueError(
            f'model.pairs.pool_sizes={sizes} must be at most {grid}, the patches of a side of a '
            f'global crop, e.g. --cfg-options "model.pairs.pool_sizes=({scaled})"'
        )


def _check_num_images(config: Config, num_images: int) -> None:
    """Raise a ValueError if the images of the larger branch do not fill one batch."""
    batch, world = config.train_dataloader.batch_size, world_size()
    if num_images < batch * world:
        raise ValueError(
            f'{num_images} images do not fill one batch of {batch} on each of {world} '
            'processes; add images, or lower it with --cfg-options '
            f'train_dataloader.batch_size={max(num_images // world, 1)}'
        )


def _warn_of_few_negatives(config: Config) -> None:
    batch = config.train_dataloader.batch_size
    negatives = default_of(PatchPairSampler, 'num_negatives')
    if batch < 1 + config.model.get('pairs', {}).get('num_negatives', negatives):
        print_log(
            f'a batch of {batch} images has fewer negatives than the method ranks against '
            '(num_negatives); a larger batch is better than accumulation',
            logger='current',
            level=logging.WARNING,
        )


def _drop_init_on_resume(config: Config, part: dict) -> None:
    """Let a resumed run load only its checkpoint. Call this after all that depends on the init."""
    if config.get('resume'):
        part['init_cfg'] = None
