"""Which batches of a network fit into the memory of usual GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmengine.config import Config

from cotap_mm.command_line.table import markdown_table
from cotap_mm.diagnosis.hardware import GIB
from cotap_mm.distributed.fsdp import strategy_version
from cotap_mm.registry import MODELS, option_of

from .cost import Cost, crop_counts, estimate_cost

#: Memory of a GPU in GB, and number of GPUs among which FSDP shards.
MEMORIES, SHARDS = (24, 80), 8
_SIZES = (224, 448)


@dataclass(frozen=True)
class Capacity:
    """Memory of a training with certain crops on GPUs.

    Attributes:
        global_size (int): Side of a global crop in pixels.
        local_size (int): Side of a local crop in pixels.
        recomputes (bool): Whether the blocks are recomputed (``with_cp=True``).
        is_config (bool): Whether crops and recomputation are those of the config.
        memory (float): Bytes that a step with the batch of the config needs.
        largest (tuple[int, ...]): Largest batch for each of :data:`MEMORIES` on one GPU.
        largest_sharded (tuple[int, ...]): The same on each of :data:`SHARDS` GPUs with FSDP.
    """

    global_size: int
    local_size: int
    recomputes: bool
    is_config: bool
    memory: float
    largest: tuple[int, ...]
    largest_sharded: tuple[int, ...]


def find_capacities(config: Config) -> list[Capacity]:
    """Estimate for the crops of a config and for those of 224 and 448 px what fits on GPUs.

    Args:
        config (Config): Config of a pre-training; not changed.

    Returns:
        list[Capacity]: Two for each size, without and with activation checkpointing.
    """
    patch = option_of(MODELS, config.model.backbone, 'patch_size')
    own = crop_counts(config)
    sizes = {own.global_size: own.local_size}
    for size in _SIZES:
        local = round(own.local_size * size / own.global_size / patch)
        sizes.setdefault(size // patch * patch, max(local, 1) * patch)
    found = []
    for size, local in sorted(sizes.items()):
        for recomputes in (False, True):
            changed = Config(config._cfg_dict.to_dict())
            changed.merge_from_dict(
                {
                    'train_dataloader.dataset.crops.global_size': size,
                    'train_dataloader.dataset.crops.local_size': local,
                    'model.backbone.with_cp': recomputes,
                }
            )
            is_config = size == own.global_size and recomputes is config.model.backbone.get(
                'with_cp', False
            )
            cost = estimate_cost(changed, on_gpu=True)
            batch = config.train_dataloader.batch_size
            found.append(Capacity(size, local, recomputes, is_config, *_fits(cost, batch)))
    return found


def _fits(cost: Cost, batch: int) -> tuple[float, tuple[int, ...], tuple[int, ...]]:
    sharded = cost.sharded(SHARDS, strategy_version())
    one, several = (
        tuple(each.largest_batch(memory * GIB) for memory in MEMORIES) for each in (cost, sharded)
    )
    return cost.memory(batch), one, several


def format_capacities(capacities: Sequence[Capacity], batch: int) -> str:
    """Format as a table.

    Args:
        capacities (sequence[Capacity]): From :func:`find_capacities`.
        batch (int): Batch of the config.

    Returns:
        str: Lines.
    """
    headings = ['crops', 'blocks', f'memory of {batch}']
    headings += [f'{memory} GB' for memory in MEMORIES]
    headings += [f'{SHARDS} x {memory} GB, FSDP' for memory in MEMORIES]
    rows = [
        (
            f'{each.global_size} and {each.local_size} px',
            ('recomputed' if each.recomputes else 'stored')
            + (' (config)' if each.is_config else ''),
            f'{each.memory / GIB:.1f} GB',
            *each.largest,
            *each.largest_sharded,
        )
        for each in capacities
    ]
    return markdown_table(headings, rows, align=True)
