"""Propose the options of a training for a set of images and a machine."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from mmengine.config import Config

from cotap_mm.engine.shape import scaled_pool_sizes
from cotap_mm.models.modules import PatchPairSampler
from cotap_mm.registry import MODELS, default_of, option_of

from .cost import IMAGES_READ, Cost, crop_options, estimate_cost
from .devices import Device
from .length import choose_length, images_per_update, set_length
from .recipe import Recipe
from .survey import Survey

#: Config for a GPU and for a machine without one.
GPU_CONFIG, CPU_CONFIG = 'vits_folder', 'raccoon_toy'
_USABLE_MEMORY = 0.85
#: Share of the rate of a matrix product that a training step reaches: lowest and highest.
EFFICIENCY = {'cuda': (0.2, 0.45), 'cpu': (0.5, 0.8)}
_MOST_WORKERS = 8


def propose(config: Config, name: str, survey: Survey, device: Device) -> tuple[Recipe, Cost]:
    """Propose a training with a config.

    Args:
        config (Config): Config of a pre-training; not changed.
        name (str): Its name, for the command.
        survey (Survey): What the images are.
        device (Device): What the training runs on.

    Returns:
        tuple[Recipe, Cost]: The proposal, and the cost that it is based on.
    """
    options: dict[str, Any] = {}
    notes: list[str] = []
    config = Config(config._cfg_dict.to_dict())
    sizes = choose_crops(config, survey, options, notes)
    on_gpu = device.kind == 'cuda'
    cost = _cost(config, device)
    capacity = cost.largest_batch(_USABLE_MEMORY * device.memory)
    batch, accumulation = _choose_batch(config, survey.count, device, capacity, notes)
    if on_gpu and config.model.backbone.get('with_cp'):
        config.model.backbone.with_cp = False
        faster = _cost(config, device)
        if faster.largest_batch(0.6 * device.memory) >= batch:
            cost = faster
            options['model.backbone.with_cp'] = False
            notes.append('activations are not recomputed, since they fit into memory')
    cost = replace(cost, accumulates=accumulation > 1)
    iterations = choose_length(config, survey.count, batch * device.count, notes)
    workers = max(1, min(_MOST_WORKERS, int(device.cores / max(device.count, 1))))
    dataloader = config.train_dataloader
    wanted = {
        'train_dataloader.batch_size': (batch, dataloader.batch_size),
        'train_dataloader.num_workers': (workers, dataloader.get('num_workers', 0)),
        'optim_wrapper.accumulative_counts': (
            accumulation,
            config.optim_wrapper.get('accumulative_counts', 1),
        ),
    }
    options.update({key: new for key, (new, old) in wanted.items() if new != old})
    recipe = Recipe(
        name,
        device.count if on_gpu else 0,
        batch,
        accumulation,
        iterations,
        workers,
        *sizes,
        options=options,
        memory=cost.memory(batch),
        seconds=step_seconds(cost, batch, workers, survey, device),
        notes=notes,
    )
    set_length(recipe, config, iterations)
    return recipe, cost


def _cost(config: Config, device: Device) -> Cost:
    """Cost on each device, as if gradients were accumulated, which needs more memory."""
    cost = replace(estimate_cost(config, device.kind == 'cuda'), accumulates=True)
    return cost.replicated() if device.count > 1 else cost


def step_seconds(
    cost: Cost, batch: int, workers: int, survey: Survey, device: Device
) -> tuple[float, float]:
    """Estimate the duration of a step: that of the device or of the loader, whichever is longer.

    Args:
        cost (Cost): Cost of a step.
        batch (int): Images per device.
        workers (int): Loader workers per device.
        survey (Survey): With the measured time to read an image.
        device (Device): With the measured rate of a matrix product.

    Returns:
        tuple[float, float]: Lowest and highest estimate in seconds; zeros without a rate.
    """
    if not device.rate:
        return 0.0, 0.0
    low, high = EFFICIENCY[device.kind]
    loading = IMAGES_READ * batch * survey.seconds_per_image / workers
    computing = batch * cost.flops_per_image / device.rate
    return max(computing / high, loading), max(computing / low, loading)


def choose_crops(
    config: Config, survey: Survey, options: dict[str, Any], notes: list[str]
) -> tuple[int, int]:
    """Shrink the crops if most images are so small that they would be enlarged more than twice.

    Args:
        config (Config): Changed in place.
        survey (Survey): What the images are.
        options (dict): Gets the changed keys.
        notes (list[str]): Gets the reason.

    Returns:
        tuple[int, int]: Sides of global and local crops in pixels.
    """
    crops = crop_options(config)
    size, local = crops.get('global_size', 224), crops.get('local_size', 96)
    patch = option_of(MODELS, config.model.backbone, 'patch_size')
    sides = survey.shorter_sides()
    usual = float(np.quantile(sides, 0.2)) if len(sides) else size
    if usual >= size / 2:
        return size, local
    smaller = max(int(2 * usual / patch), size // (2 * patch)) * patch
    smaller_local = max(round(local * smaller / size / patch), 2) * patch
    key = 'train_dataloader.dataset.crops'
    changed = {
        f'{key}.global_size': smaller,
        f'{key}.local_size': smaller_local,
        'model.pairs.pool_sizes': scaled_pool_sizes(config, smaller / size),
    }
    options.update(changed)
    config.merge_from_dict(changed)
    notes.append(
        f'crops of {smaller} instead of {size} px, since a fifth of the images have a shorter side '
        f'of at most {usual:.0f} px'
    )
    return smaller, smaller_local


def _choose_batch(
    config: Config, images: int, device: Device, capacity: int, notes: list[str]
) -> tuple[int, int]:
    """Batch per GPU and accumulation that keep the number of images of an optimizer step."""
    target = images_per_update(config)
    negatives = _num_negatives(config)
    if capacity < 1:
        notes.append('by this estimate not even one image fits into memory; measure it')
    most = max(min(capacity, images // device.count), 1)
    accumulation = math.ceil(target / (most * device.count))
    batch = math.ceil(target / (accumulation * device.count))
    batch = min(max(batch, negatives + 1), most)
    accumulation = max(round(target / (batch * device.count)), 1)
    if batch <= negatives:
        notes.append(
            f'a batch of {batch} has fewer negatives than the method ranks against ({negatives})'
        )
    return batch, accumulation


def _num_negatives(config: Config) -> int:
    """Number of negatives that the ranking loss uses."""
    default = default_of(PatchPairSampler, 'num_negatives')
    return config.model.get('pairs', {}).get('num_negatives', default)
