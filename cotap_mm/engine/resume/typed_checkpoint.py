"""A checkpoint that was typed with ``--resume``, and restarts of the run that began from it."""

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

_KEY = 'typed_checkpoint'  # of the record of a work folder


def passed_over(config: Config) -> dict[str, list]:
    """Checkpoints that a run which begins from a typed one must not continue from.

    Those are all that were there when it was started by its user, who may have gone back to an
    older one on purpose; a restart by a launcher finds them in the record of the work folder.
    Every rank must call this.

    Args:
        config (Config): With ``work_dir``, and the typed ``load_from``.

    Returns:
        dict[str, list]: As :func:`.stamps`.
    """
    marks = sorted({mark for marks in all_gather_object(_job_marks()) for mark in marks})
    return on_first_rank(lambda: _passed_over(config, marks))


def _passed_over(config: Config, marks: list[str]) -> dict[str, list]:
    folder, typed = Path(config.work_dir), str(config.load_from)
    record = _read_record(folder)
    noted = record.get(_KEY)
    if is_restart() and isinstance(noted, dict) and noted.get('load_from') == typed:
        jobs, there = noted.get('jobs'), noted.get('there')
        if (
            isinstance(jobs, list)
            and isinstance(there, dict)
            and (not marks or any(mark in jobs for mark in marks))
        ):
            return {name: value for name, value in there.items() if isinstance(value, list)}
    there = stamps(checkpoint_folder(config), checkpoint_names(config))
    _write_record(folder, dict(record, **{_KEY: dict(load_from=typed, jobs=marks, there=there)}))
    return there
