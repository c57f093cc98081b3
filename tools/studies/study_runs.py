"""Runs of a study: each is kept when it is finished, and not repeated."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Callable

import torch
from mmengine.utils import ProgressBar

from cotap_mm.errors import UserError
from cotap_mm.files.atomic_write import atomic_append

Job = dict[str, Any]
Record = dict[str, Any]  # a job with its results


def _key(job: Job) -> str:
    return json.dumps(job, sort_keys=True)


def _start_worker() -> None:
    """One thread, and no life after the process that started this one, however that ends."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _timed(work: Callable[[Job], dict[str, float]], job: Job) -> Record:
    start = time.monotonic()
    results = work(job)
    return dict(job, **results, seconds=round(time.monotonic() - start, 3))


def run_jobs(
    work: Callable[[Job], dict[str, float]], jobs: Sequence[Job], store: Path, workers: int = 1
) -> list[Record]:
    """Run the jobs that have no result yet; store every result immediately.

    Args:
        work (callable): Job -> numbers. With several workers it must be importable by name.
        jobs (sequence): What to run; equal jobs are run once.
        store (Path): JSON lines, one a finished run. Delete it after a change of the code.
        workers (int): Processes, each with one thread; 1 runs here. Defaults to 1.

    Returns:
        list[dict]: Job, results and ``seconds`` of each job, in the order of ``jobs``.

    Raises:
        ValueError: If ``workers`` is below 1, or the store is damaged.
        UserError: If a worker is killed.
    """
    if workers < 1:
        raise ValueError(f'workers must be >= 1, got {workers}')
    done = _read_store(store)
    todo = list({_key(job): job for job in jobs if _key(job) not in done}.values())
    bar = ProgressBar(len(todo)) if todo else None

    def keep(job: Job, record: Record) -> None:
        done[_key(job)] = record
        atomic_append(store, json.dumps(dict(job=job, record=record)) + '\n')
        bar.update()

    if workers == 1:
        for job in todo:
            keep(job, _timed(work, job))
    elif todo:
        # Spawned, since a fork of a process that holds threads or a GPU can hang.
        with ProcessPoolExecutor(
            workers, multiprocessing.get_context('spawn'), _start_worker
        ) as pool:
            running = {pool.submit(_timed, work, job): job for job in todo}
            try:
                for future in as_completed(running):
                    keep(running[future], future.result())
            except BrokenProcessPool as error:
                raise UserError(
                    f'one of {workers} workers was killed, as the system does when memory runs '
                    f'out; start again with fewer --workers, finished runs are kept in {store}'
                ) from error
    if bar is not None:
        bar.file.write('\n')
    return [done[_key(job)] for job in jobs]


def _read_store(store: Path) -> dict[str, Record]:
    """Finished runs by the key of their job."""
    found = {}
    lines = store.read_text(encoding='utf-8').splitlines() if store.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            found[_key(entry['job'])] = entry['record']
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'line {number} of {store} is not a finished run; remove that line, '
                'or give another --work-dir'
            ) from error
    return found
