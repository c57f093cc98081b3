"""Where an interrupted run continues, and with what it was begun."""

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
from .typed_checkpoint import passed_over
from .work_folder import AUTO, checkpoint_folder, checkpoint_names, earlier_checkpoints, is_restart

_BRANCHES = dict(neighbors='patch', cls_neighbors='cls')  # option -> branch


def choose_resume(config: Config) -> dict[str, str]:
    """Choose the checkpoint to resume from, and take from it what the run was begun with.

    That is the one that was written last, see :func:`.newest_good_checkpoint`. With ``--resume``
    ``load_from`` names another one; a run that a launcher has started again had begun from that
    one, and continues with what it has saved since. Every rank must call this.

    Args:
        config (Config): ``resume``, ``load_from`` and ``randomness.seed`` are set;
            ``neighbors='auto'`` becomes the file that the run has used so far.

    Returns:
        dict[str, str]: Neighbor files of the run that are not there any more, by option.

    Raises:
        ValueError: If there are checkpoints and none of them is good.
    """
    if not config.get('resume'):
        return {}
    is_typed = config.resume != AUTO and bool(config.get('load_from'))
    others = passed_over(config) if is_typed else {}
    if not is_typed or is_restart():
        chosen = on_first_rank(lambda: _newest(config, others))
        if chosen is not None:
            print_log(f'resuming from {chosen}', logger='current')
            config.load_from = chosen
        elif not is_typed:
            print_log(
                f'{config.work_dir} has no checkpoint of this run; training starts from its '
                'beginning',
                logger='current',
            )
            config.resume = False
            return {}
    config.resume = True
    begun = on_first_rank(lambda: _begun_with(config.load_from))
    _keep_seed(config, begun.get('seed'))
    return _keep_neighbors(config, begun.get('neighbors') or {})


def _newest(config: Config, others: dict[str, list]) -> str | None:
    """The last checkpoint, but none of ``others``, instead of which ``load_from`` was typed."""
    folder, names = checkpoint_folder(config), checkpoint_names(config)
    earlier = {**earlier_checkpoints(config.work_dir), **others}
    chosen = newest_good_checkpoint(folder, names, earlier)
    if chosen is not None or others:
        return None if chosen is None else str(chosen)
    there = numbered_checkpoints(folder, names)
    if any(path.name not in earlier for path in there):
        raise ValueError(
            f'all checkpoints in {folder} are damaged (see above); train in another '
            '--work-dir, or without --resume and with --overwrite'
        )
    if there:
        print_log(
            f'{there[0]} and all other checkpoints there are of an earlier run; to continue '
            f'that one, add --cfg-options load_from={there[0]}',
            logger='current',
            level=logging.WARNING,
        )
    return _remote(config)


def _remote(config: Config) -> str | None:
    """The last checkpoint where MMEngine's file backends keep them elsewhere."""
    try:
        place = name_text((Path(config.work_dir) / 'last_checkpoint').read_bytes()).strip()
    except (OSError, ValueError):
        return None
    return place if pointed_name(config.work_dir) and '://' in place else None


def _begun_with(checkpoint: str) -> dict[str, Any]:
    """Seed and neighbor files of the run that saved a checkpoint; empty if they are not told."""
    if not Path(checkpoint).is_file():  # a URL, or MMEngine says what is wrong
        return {}
    problem = missing_parts(checkpoint)
    if problem is not None:
        raise ValueError(f'{checkpoint} {problem}; choose another load_from, or leave it out')
    try:
        content = read_lazily(checkpoint)
        meta, state = content.get('meta', {}), content.get(run_state.KEY) or {}
        files = state.get('neighbors')
        if files is None:  # saved by an earlier version
            files = dict(
                re.findall(
                    r"(?<!\w)((?:cls_)?neighbors)\s*=\s*'([^']+\.npz)'", str(meta.get('cfg', ''))
                )
            )
        return dict(
            seed=meta.get('seed'),
            neighbors={
                key: str(value) for key, value in files.items() if value and key in _BRANCHES
            },
        )
    except Exception as error:  # MMEngine tells more, and before torch 2.6 it can read it
        print_log(
            f'{checkpoint} does not tell how its run was begun ({type(error).__name__}: {error})',
            logger='current',
            level=logging.WARNING,
        )
        return {}


def _keep_seed(config: Config, seed: Any) -> None:
    """The order of the images and all crops follow from it."""
    if not isinstance(seed, int) or isinstance(seed, bool):
        return
    stated = config.get('randomness') or {}
    if stated.get('seed') != seed:
        print_log(
            f'this run was begun with the seed {seed}, and continues with it instead of '
            f'{stated.get("seed")}',
            logger='current',
            level=logging.WARNING,
        )
        config.randomness = dict(stated, seed=seed)


def _keep_neighbors(config: Config, files: dict[str, str]) -> dict[str, str]:
    """Use the same files again; returns those that are gone."""
    dataset = (config.get('train_dataloader') or {}).get('dataset')
    if not isinstance(dataset, dict):
        return {}
    gone = {}
    for key, branch in _BRANCHES.items():
        if dataset.get(key) != 'auto' or not dataset.get(branch) or key not in files:
            continue
        stated = Path(files[key])
        places = [Path(config.work_dir), Path(config.load_from).parent]
        near = [place / stated.name for place in places]
        # Folders are moved and copied: a file that was found for this run lies beside it.
        order = [*near, stated] if AUTO_NAME.fullmatch(stated.name) else [stated, *near]
        there = on_first_rank(lambda: next((str(p) for p in order if p.is_file()), None))  # noqa: B023
        if there is None:
            gone[key] = str(stated)
            continue
        dataset[key] = there
        print_log(f'{key}: {there}, as before', logger='current')
    return gone
