"""Fair timing: candidates take turns, each one's peak memory comes from a process of its own."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import torch

from cotap_mm.command_line.table import markdown_table
from cotap_mm.environment import environment_info, peak_bytes

GB = 2**30
MB = 2**20


class Times(NamedTuple):
    """Seconds of several runs of one candidate."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """Median in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half of what lies between the quartiles, as a share of the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method='inclusive')
        return (high - low) / 2 / self.median


def synchronize(device: str) -> None:
    """Wait until the device has done its work."""
    if device.startswith('cuda'):
        torch.cuda.synchronize()


def seconds_of(
    work: Callable[[], Any],
    device: str = 'cpu',
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Time of one call; wall time, unless there is another ``clock``."""
    synchronize(device)
    start = clock()
    work()
    synchronize(device)
    return clock() - start


def take_turns(
    candidates: dict[str, Callable[[], Any]],
    runs: int = 5,
    warmup: int = 1,
    device: str = 'cpu',
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Times]:
    """Time candidates in alternation, so that a disturbance hits all of them.

    Args:
        candidates (dict[str, callable]): Work to be timed.
        runs (int): Measured runs of each. Defaults to 5.
        warmup (int): Runs of each that are not measured. Defaults to 1.
        device (str): Where the work happens. Defaults to 'cpu'.
        clock (callable): Returns seconds. Defaults to wall time.
    """
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for index in range(warmup + runs):
        for name, work in candidates.items():
            seconds = seconds_of(work, device, clock)
            if index >= warmup:
                found[name].append(seconds)
    return {name: Times(each) for name, each in found.items()}


def reset_peak() -> None:
    """Let ``peak_bytes`` start from what the process holds now, where the system can."""
    with contextlib.suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5', encoding='ascii')


def _memory(
    queue, prepare: Callable, arguments: Sequence, device: str, threads: int, extra: bool
) -> None:
    torch.set_num_threads(threads)
    work = prepare(*arguments)
    if device.startswith('cuda'):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated
    else:
        reset_peak()
        before, peak = peak_bytes(), peak_bytes
    work()
    synchronize(device)
    queue.put(peak() - before * extra)


def _in_fresh_process(prepare: Callable, arguments: Sequence, device: str, extra: bool) -> int:
    # A server that has imported everything forks the processes; it never uses a GPU itself.
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['cotap_mm.models'])
    queue = context.SimpleQueue()
    process = context.Process(
        target=_memory, args=(queue, prepare, arguments, device, torch.get_num_threads(), extra)
    )
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(
            f'measuring the memory of {prepare.__name__} ended with exit status '
            f'{process.exitcode}; is there enough memory?'
        )
    return queue.get()


def extra_memory(
    prepare: Callable[..., Callable[[], Any]], *arguments: Any, device: str = 'cpu'
) -> int:
    """Measure the peak memory of some work in bytes, beyond what was allocated before.

    Args:
        prepare (callable): A function of a module, called in a fresh process; returns the
            work, of which one call is measured.
        *arguments: For ``prepare``.
        device (str): Defaults to 'cpu'.

    Raises:
        RuntimeError: If the process died, for lack of memory perhaps.
    """
    return _in_fresh_process(prepare, arguments, device, True)


def peak_memory(
    prepare: Callable[..., Callable[[], Any]], *arguments: Any, device: str = 'cpu'
) -> int:
    """Measure the peak memory of some work in a fresh process, in bytes.

    On a GPU what PyTorch has allocated, on a CPU the whole process.
    """
    return _in_fresh_process(prepare, arguments, device, False)


def report(
    title: str, rows: list[dict[str, Any]], device: str, path: Optional[str] = None, **settings: Any
) -> None:
    """Print a table, and write everything to a JSON file if there is a ``path``."""
    where = environment_info(device)
    print(f'\n{title}')
    print(', '.join(f'{key} {value}' for key, value in {**settings, **where}.items()))
    header = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[row.get(key, '-') for key in header] for row in rows]
    print(markdown_table(header, cells, align=True))
    if path:
        result = dict(title=title, settings=settings, **where, rows=rows)
        Path(path).write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
