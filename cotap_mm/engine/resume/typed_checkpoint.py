"""Restarts of a run that was resumed from a checkpoint set by its user."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import all_gather_object

from cotap_mm.distributed.first_rank import on_first_rank

from .checkpoints import stamps
from .work_folder import (
    _job_marks,
    _read_record,
    _write_record,
    checkpoint_folder,
    checkpoint_names,
    is_restart,
)

_KEY = 'typed_checkpoint'  # in the record of a work folder


def skipped_checkpoints(config: Config) -> dict[str, list]:
    """Checkpoints that a run must not resume from if its user has set ``load_from``.

    These are all checkpoints that existed when the user started the run, perhaps from an older
    checkpoint on purpose. A restart by a launcher reads them from the record of the work folder.
    Every rank must call this.

    Args:
        config (Config): With ``work_dir``, and ``load_from`` as set by the user.

    Returns:
        dict[str, list]: File name -> fingerprint, see :func:`.stamps`.
    """
    marks = sorted({mark for marks in all_gather_object(_job_marks()) for mark in marks})
    return on_first_rank(lambda: _skipped_checkpoints(config, marks))


def _skipped_checkpoints(config: Config, marks: list[str]) -> dict[str, list]:
    folder, typed = Path(config.work_dir), str(config.load_from)
    record = _read_record(folder)
    start = record.get(_KEY)
    if is_restart() and isinstance(start, dict) and start.get('load_from') == typed:
        jobs, existing = start.get('jobs'), start.get('there')
        if (
            isinstance(jobs, list)
            and isinstance(existing, dict)
            and (not marks or any(mark in jobs for mark in marks))
        ):
            return {name: value for name, value in existing.items() if isinstance(value, list)}
    existing = stamps(checkpoint_folder(config), checkpoint_names(config))
    _write_record(folder, dict(record, **{_KEY: dict(load_from=typed, jobs=marks, there=existing)}))
    return existing
