"""What a checkpoint holds beyond MMEngine's, so that a resumed run is the same run.

MMEngine saves what rank 0 has. Every rank has its own queues and its own random numbers,
and the loader is in the middle of an epoch.
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

KEY = 'run_state'  # of the checkpoint


def gather_run_state(model: nn.Module, samples_seen: int) -> Optional[dict[str, Any]]:
    """State of all ranks; every rank must call this.

    Args:
        model (nn.Module): Wrapped or not; its :class:`FeatureQueue` parts are saved.
        samples_seen (int): Of the training set, by all ranks together, since the run began.

    Returns:
        dict, optional: On rank 0, what :func:`restore_run_state` finds in the checkpoint
        under :data:`KEY`; elsewhere None.
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
        random=numbers,
        queues_of_other_ranks=others,
    )


def restore_run_state(model: nn.Module, checkpoint: dict[str, Any], seed: int) -> None:
    """Give each rank its queues and random numbers back.

    On as many ranks as before everything is as it was. On another number, queues are
    merged, newest rows first, and redistributed, and random numbers start from ``seed``,
    the rank and the number of samples seen; the log says so.

    Args:
        model (nn.Module): Has loaded the checkpoint's state dict, which is rank 0's.
        checkpoint (dict): Of a training, with :data:`KEY`.
        seed (int): The run's.
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
    told = []
    for name, queue in _queues(model).items():
        first = {key: checkpoint['state_dict'][f'{name}.{key}'] for key in queue.state_dict()}
        parts = [first, *others[name]]
        queue.redistribute(parts, rank(), now)
        told.append(f'{name} ({sum(int(part["num_filled"]) for part in parts)} rows)')
    seed_from(seed, rank(), state['samples_seen'])
    queues = f': merged and redistributed {", ".join(told)}; ' if told else '; '
    order = (
        f'. The order of the images stays; with the same batch size a step now sees '
        f'{now / before:g} times as many'
        if state['samples_seen']
        else ''
    )
    print_log(
        f'resuming on {now} ranks what ran on {before}{queues}random numbers start anew{order}',
        logger='current',
        level=logging.WARNING,
    )


def neighbor_files(config: Config) -> dict[str, str]:
    """Neighbor files that a training uses, by option of its data set.

    Those that it has found itself lie in its work folder, and only their names are kept.

    Args:
        config (Config): Of the training, with ``neighbors='auto'`` replaced.
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
