"""The commands as a user types them, each an interpreter of its own; moments are seconds."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fault_harness.draw import Fault
from fault_harness.processes import SHORT_TIMEOUT, Try
from fault_harness.toy_training import ROOT
from rank_work import free_port
from tools.launched import DIST_TRAIN, environment

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
    """Start ``tools/train.py`` or ``tools/dist_train.sh``, with a fault from outside.

    Args:
        line (list[str]): Arguments of tools/train.py.
        folder (Path): Of the case.
        world (int): Number of ranks.
        fault (Fault, optional): Of the process; ``place`` is the share of an uninterrupted
            run's seconds after which it happens.
        name (str): Of the try.
        seconds (dict): Of an uninterrupted run by number of ranks; it is measured where it
            is missing, with the first try.

    Returns:
        Try: With one status and output, of the command.
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
    found = Try()
    try:
        if fault is not None:
            _strike(process, fault, fault.place * seconds.get(world, 15.0), found)
        process.wait(timeout=LIMIT)
        if fault is None:
            seconds[world] = time.monotonic() - start
    except subprocess.TimeoutExpired:
        found.hung = True
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    found.statuses = [process.returncode]
    # torchrun ends with a traceback of its own when a rank fails.
    found.outputs = [output.read_text(errors='replace').partition(_TORCHRUN)[0]]
    found.seconds = time.monotonic() - start
    return found


def _strike(process: subprocess.Popen, fault: Fault, delay: float, found: Try) -> None:
    """Wait, and do it to the command, all of its processes, or one of them."""
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
    found.happened.append(
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
    """Processes that another one has started; Linux only."""
    try:
        return [
            int(word)
            for word in Path(f'/proc/{process}/task/{process}/children').read_text().split()
        ]
    except (OSError, ValueError):
        return []
