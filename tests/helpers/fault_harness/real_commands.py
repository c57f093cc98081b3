"""Run the actual commands, each in a new interpreter; faults are timed in seconds."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.fault_harness.draw import Fault
from tests.helpers.fault_harness.processes import SHORT_TIMEOUT, Try
from tests.helpers.fault_harness.toy_training import ROOT
from tests.helpers.launched import DIST_TRAIN, environment
from tests.helpers.rank_work import free_port

_TORCHRUN = 'Traceback (most recent call last):\n  File "<frozen runpy>"'
LIMIT = 400.0  # seconds; the imports alone take a minute on a busy machine


def run(
    line: list[str],
    folder: Path,
    world: int,
    fault: Fault | None,
    name: str,
    seconds: dict[int, float],
) -> Try:
    """Start ``tools/train.py`` or ``tools/dist_train.sh``, and inject a fault from outside.

    Args:
        line (list[str]): Arguments of tools/train.py.
        folder (Path): Folder of the case.
        world (int): Number of ranks.
        fault (Fault, optional): Fault of the process, after the fraction ``place`` of the
            duration of an uninterrupted run.
        name (str): Name of the try.
        seconds (dict): Duration of an uninterrupted run by number of ranks; measured here if
            there is no fault.

    Returns:
        Try: Result with one status and output, those of the command.
    """
    command = [sys.executable, '-W', 'ignore', str(ROOT / 'tools' / 'train.py'), *line]
    if world > 1:
        command = [*DIST_TRAIN, line[0], str(world), *line[1:]]
    output, start = folder / f'output-{name}', time.monotonic()
    is_lost = fault is not None and not fault.everywhere and fault.kind in ('kill', 'freeze')
    with open(output, 'w') as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=environment(
                folder,
                MASTER_PORT=str(free_port()),
                COTAP_DIST_TIMEOUT=str(SHORT_TIMEOUT if is_lost else LIMIT / 2),
            ),
        )
    attempt = Try()
    try:
        if fault is not None:
            _strike(process, fault, fault.place * seconds.get(world, 15.0), attempt)
        process.wait(timeout=LIMIT)
        if fault is None:
            seconds[world] = time.monotonic() - start
    except subprocess.TimeoutExpired:
        attempt.hung = True
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    attempt.statuses = [process.returncode]
    # torchrun prints a traceback of its own when a rank fails.
    attempt.outputs = [output.read_text(errors='replace').partition(_TORCHRUN)[0]]
    attempt.seconds = time.monotonic() - start
    return attempt


def _strike(process: subprocess.Popen, fault: Fault, delay: float, attempt: Try) -> None:
    """Wait, then inject the fault into the command, all of its processes, or one of them."""
    try:
        process.wait(timeout=delay)
        return
    except subprocess.TimeoutExpired:
        pass
    ranks = _children(process.pid)
    while not (ranks or fault.everywhere) and process.poll() is None:  # torchrun still imports
        time.sleep(0.1)
        ranks = _children(process.pid)
    whom = ranks[fault.rank % len(ranks)] if ranks and not fault.everywhere else process.pid
    attempt.happened.append(
        f'{fault.kind} of process {whom} of {[process.pid, *ranks]} after {delay:.1f} s'
    )
    if fault.kind == 'kill' and whom == process.pid:
        os.killpg(process.pid, signal.SIGKILL)
    elif fault.kind == 'signal':
        os.kill(whom, getattr(signal, fault.signal))
    elif fault.kind == 'kill':
        os.kill(whom, signal.SIGKILL)
    else:
        os.kill(whom, signal.SIGSTOP)
        if fault.kind == 'stop':
            time.sleep(fault.seconds)
            os.kill(whom, signal.SIGCONT)


def _children(process: int) -> list[int]:
    """Child processes of a process; Linux only."""
    try:
        return [
            int(word)
            for word in Path(f'/proc/{process}/task/{process}/children').read_text().split()
        ]
    except (OSError, ValueError):
        return []
