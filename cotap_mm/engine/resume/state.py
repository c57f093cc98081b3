"""State that MMEngine's checkpoints lack for an exact resume.

MMEngine saves the state of rank 0. Every rank has its own queues and random states, and the data
loader has a position in the data.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config
from mmengine.dist import all_gather_object, gather, is_main_process
from mmengine.logging import print_log
from torch import nn

from cotap_mm.distributed.collectives import rank, world_size
from cotap_mm.distributed.model_wrapper import unwrap
from cotap_mm.engine.auto_neighbors import AUTO_NAME
from cotap_mm.models.modules import FeatureQueue
from cotap_mm.random_state import capture_random_state, restore_random_state, seed_from

KEY = 'run_state'  # in the checkpoint


def gather_run_state(
    model: nn.Module, samples_seen: int, order: Optional[str] = None
) -> Optional[dict[str, Any]]:
    """Gather the state of all ranks on rank 0; every rank must call this.

    Args:
        model (nn.Module): Wrapped or not; its :class:`FeatureQueue` modules are saved.
        samples_seen (int): Training samples that all ranks together have seen since the run
            started.
        order (str, optional): Kind of the order of the samples, see :class:`.VisitSampler`.
            Defaults to None, for other samplers.

    Returns:
        dict, optional: On rank 0 the state that :func:`restore_run_state` expects in the
        checkpoint under :data:`KEY`; on other ranks None.
    """
    queues = {
        name: {key: gather(value) for key, value in queue.state_dict().items()}
        for name, queue in _queues(model).items()
    }
    numbers = all_gather_object(capture_random_state())
    if not is_main_process():
        return None
    # The queues of rank 0 are in the checkpoint's state dict already.
    others = {
        name: [
            {key: values[other].cpu() for key, values in state.items()}
            for other in range(1, world_size())
        ]
        for name, state in queues.items()
    }
    return dict(
        world_size=world_size(),
        samples_seen=samples_seen,
        order=order,
        random=numbers,
        queues_of_other_ranks=others,
    )


def restore_run_state(model: nn.Module, checkpoint: dict[str, Any], seed: int) -> None:
    """Restore the queues and random states of each rank.

    With the same number of ranks as before, the state is restored exactly. With another number,
    queues are merged, newest rows first, and redistributed, and the generators are seeded from
    ``seed``, the rank and the number of samples seen; this is logged.

    Args:
        model (nn.Module): Model that has loaded the state dict of the checkpoint, which is that
            of rank 0.
        checkpoint (dict): Training checkpoint with :data:`KEY`.
        seed (int): Seed of the run.
    """
    state = checkpoint[KEY]
    before, now = state['world_size'], world_size()
    others = state['queues_of_other_ranks']
    if before == now:
        if rank() > 0:
            for name, queue in _queues(model).items():
                queue.load_state_dict(others[name][rank() - 1])
        restore_random_state(state['random'][rank()])
        return
    merged = []
    for name, queue in _queues(model).items():
        first = {key: checkpoint['state_dict'][f'{name}.{key}'] for key in queue.state_dict()}
        parts = [first, *others[name]]
        queue.redistribute(parts, rank(), now)
        merged.append(f'{name} ({sum(int(part["num_filled"]) for part in parts)} rows)')
    seed_from(seed, rank(), state['samples_seen'])
    queues = f': merged and redistributed {", ".join(merged)}; ' if merged else '; '
    order = (
        f'. The order of the images is unchanged; with the same batch size a step now sees '
        f'{now / before:g} times as many'
        if state['samples_seen']
        else ''
    )
    print_log(
        f'resuming a run of {before} ranks on {now}{queues}random generators are reseeded{order}',
        logger='current',
        level=logging.WARNING,
    )


def neighbor_files(config: Config) -> dict[str, str]:
    """Neighbor files of a training: option of its data set -> path.

    For files that the training has built itself, in its work folder, only the name is kept.

    Args:
        config (Config): Training config, with ``neighbors='auto'`` replaced.
    """
    dataset = (config.get('train_dataloader') or {}).get('dataset')
    if not isinstance(dataset, dict):
        return {}
    files = {key: str(dataset[key]) for key in ('neighbors', 'cls_neighbors') if dataset.get(key)}
    return {
        key: Path(path).name if AUTO_NAME.fullmatch(Path(path).name) else path
        for key, path in files.items()
    }


def _queues(model: nn.Module) -> dict[str, FeatureQueue]:
    model = unwrap(model)
    return {name: part for name, part in model.named_modules() if isinstance(part, FeatureQueue)}
