"""Memory that a training needs, to be reported before anything is built."""

from __future__ import annotations

import os

import torch
from mmengine.config import Config

from cotap_mm.diagnosis.hardware import GIB, inspect_machine
from cotap_mm.distributed.collectives import world_size
from cotap_mm.distributed.fsdp import strategy_version

from .capacity import find_capacities, format_capacities
from .cost import Cost, estimate_cost


def preview_memory(config: Config) -> tuple[str, str]:
    """Estimate the memory of a training on this machine and on usual GPUs.

    Args:
        config (Config): Config of a pre-training, prepared to be built.

    Returns:
        tuple[str, str]: The report, and why this machine cannot make a dry run, if so.
    """
    on_gpu, batch = torch.cuda.is_available(), config.train_dataloader.batch_size
    try:
        cost = _cost_of_rank(config, on_gpu)
        capacities = find_capacities(config)
    except Exception as error:  # a network of a plug-in may need values to run
        return f'memory cannot be estimated: {error}', ''
    lines = [
        f'memory (estimate from the shapes of the tensors): {cost.memory(batch) / GIB:.1f} GB for '
        f'{batch} images on {"a GPU" if on_gpu else "this CPU"}: {describe_parts(cost, batch)}',
        'largest batch per GPU (estimate):',
        format_capacities(capacities, batch),
    ]
    return '\n'.join(lines), _shortage(cost, batch, on_gpu)


def describe_parts(cost: Cost, batch: int) -> str:
    """Describe what the memory of a step consists of."""
    parts = {
        'weights of student and teacher, queues': cost.weight_bytes,
        'gradients': cost.gradient_bytes,
        'optimizer': cost.optimizer_bytes,
        'activations': cost.step_bytes(batch),
    }
    return ', '.join(f'{name} {size / GIB:.1f}' for name, size in parts.items())


def _cost_of_rank(config: Config, on_gpu: bool) -> Cost:
    """Cost on each of the devices of this run."""
    cost, ranks = estimate_cost(config, on_gpu), world_size()
    if ranks == 1:
        return cost
    if not config.get('strategy'):
        return cost.replicated()
    return cost.sharded(ranks, strategy_version(config.strategy))


def _shortage(cost: Cost, batch: int, on_gpu: bool) -> str:
    """Message if the processes of this machine need more memory than there is."""
    # The weights of a run on GPUs are made on the CPU.
    needed = cost.weight_bytes if on_gpu else cost.memory(batch)
    needed *= int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    available = inspect_machine().free_memory
    if needed <= available:
        return ''
    what = 'the weights need' if on_gpu else f'a step with {batch} images needs'
    return (
        f'{what} about {needed / GIB:.1f} GB, but {available / GIB:.1f} GB of memory are available '
        'here, so the dry run was skipped. Lower train_dataloader.batch_size, set '
        'model.backbone.with_cp=True, or make the dry run on the machine that will train'
    )
