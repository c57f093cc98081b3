"""Choose the checkpoint to resume from, and restore the seed and neighbors of its run."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from cotap_mm.distributed.first_rank import on_first_rank
from cotap_mm.engine.auto_neighbors import AUTO_NAME
from cotap_mm.files.atomic_write import name_text

from . import state as run_state
from .checkpoints import (
    missing_parts,
    newest_good_checkpoint,
    numbered_checkpoints,
    pointed_name,
    read_lazily,
)
from .typed_checkpoint import skipped_checkpoints
from .work_folder import AUTO, checkpoint_folder, checkpoint_names, earlier_checkpoints, is_restart

_BRANCHES = dict(neighbors='patch', cls_neighbors='cls')  # option -> branch


def choose_resume(config: Config) -> dict[str, str]:
    """Choose the checkpoint to resume from, and restore the seed and neighbors of its run.

    It is the checkpoint that was written last, see :func:`.newest_good_checkpoint`, unless the
    user sets ``load_from`` together with ``--resume``. If a launcher restarts such a run, it
    continues from what it has saved since. Every rank must call this.

    Args:
        config (Config): ``resume``, ``load_from`` and ``randomness.seed`` are set;
            ``neighbors='auto'`` is replaced by the file that the run has used so far.

    Returns:
        dict[str, str]: Option -> neighbor file of the run that no longer exists.

    Raises:
        ValueError: If there are checkpoints, but none of them is valid.
    """
    if not config.get('resume'):
        return {}
    is_typed = config.resume != AUTO and bool(config.get('load_from'))
    others = skipped_checkpoints(config) if is_typed else {}
    if not is_typed or is_restart():
        chosen = on_first_rank(lambda: _newest(config, others))
        if chosen is not None:
            print_log(f'resuming from {chosen}', logger='current')
            config.load_from = chosen
        elif not is_typed:
            print_log(
                f'{config.work_dir} has no checkpoint of this run; training starts from the '
                'beginning',
                logger='current',
            )
            config.resume = False
            return {}
    config.resume = True
    start = on_first_rank(lambda: _seed_and_neighbors(config.load_from))
    _restore_seed(config, start.get('seed'))
    return _restore_neighbors(config, start.get('neighbors') or {})


def _newest(config: Config, others: dict[str, list]) -> str | None:
    """The last checkpoint, except ``others``, which the user skipped by setting ``load_from``."""
    folder, names = checkpoint_folder(config), checkpoint_names(config)
    earlier = {**earlier_checkpoints(config.work_dir), **others}
    chosen = newest_good_checkpoint(folder, names, earlier)
    if chosen is not None or others:
        return None if chosen is None else str(chosen)
    existing = numbered_checkpoints(folder, names)
    if any(path.name not in earlier for path in existing):
        raise ValueError(
            f'all checkpoints in {folder} are damaged (see above); train in another '
            '--work-dir, or without --resume and with --overwrite'
        )
    if existing:
        print_log(
            f'{existing[0]} and all other checkpoints in its folder belong to an earlier run; to '
            f'resume that run, add --cfg-options load_from={existing[0]}',
            logger='current',
            level=logging.WARNING,
        )
    return _remote(config)


def _remote(config: Config) -> str | None:
    """The last checkpoint, if one of MMEngine's file backends stores them remotely."""
    try:
        url = name_text((Path(config.work_dir) / 'last_checkpoint').read_bytes()).strip()
    except (OSError, ValueError):
        return None
    return url if pointed_name(config.work_dir) and '://' in url else None


def _seed_and_neighbors(checkpoint: str) -> dict[str, Any]:
    """Seed and neighbor files of the run that saved a checkpoint; empty if they are unknown."""
    if not Path(checkpoint).is_file():  # a URL, or MMEngine reports the error
        return {}
    problem = missing_parts(checkpoint)
    if problem is not None:
        raise ValueError(f'{checkpoint} {problem}; set another load_from, or remove it')
    try:
        content = read_lazily(checkpoint)
        meta, state = content.get('meta', {}), content.get(run_state.KEY) or {}
        files = state.get('neighbors')
        if files is None:  # saved by an earlier version
            files = dict(
                re.findall(
                    r"(?<!\w)((?:cls_)?neighbors)\s*=\s*'([^']+\.np[yz])'", str(meta.get('cfg', ''))
                )
            )
        return dict(
            seed=meta.get('seed'),
            neighbors={
                key: str(value) for key, value in files.items() if value and key in _BRANCHES
            },
        )
    except Exception as error:  # MMEngine reports more, and can read it before torch 2.6
        print_log(
            f'cannot read the seed and neighbors of {checkpoint} ({type(error).__name__}: {error})',
            logger='current',
            level=logging.WARNING,
        )
        return {}


def _restore_seed(config: Config, seed: Any) -> None:
    """Use the seed of the run, which determines the order of the images and all crops."""
    if not isinstance(seed, int) or isinstance(seed, bool):
        return
    stated = config.get('randomness') or {}
    if stated.get('seed') != seed:
        print_log(
            f'this run was started with seed {seed}, which is used instead of {stated.get("seed")}',
            logger='current',
            level=logging.WARNING,
        )
        config.randomness = dict(stated, seed=seed)


def _restore_neighbors(config: Config, files: dict[str, str]) -> dict[str, str]:
    """Use the neighbor files of the run; return those that no longer exist."""
    dataset = (config.get('train_dataloader') or {}).get('dataset')
    if not isinstance(dataset, dict):
        return {}
    missing = {}
    for key, branch in _BRANCHES.items():
        if dataset.get(key) != 'auto' or not dataset.get(branch) or key not in files:
            continue
        stated = Path(files[key])
        folders = [Path(config.work_dir), Path(config.load_from).parent]
        near = [folder / stated.name for folder in folders]
        # Folders may be moved or copied; a file that was built for this run is in its folder.
        order = [*near, stated] if AUTO_NAME.fullmatch(stated.name) else [stated, *near]
        path = on_first_rank(lambda: next((str(p) for p in order if p.is_file()), None))  # noqa: B023
        if path is None:
            missing[key] = str(stated)
            continue
        dataset[key] = path
        print_log(f'{key}: using {path}, as before', logger='current')
    return missing
