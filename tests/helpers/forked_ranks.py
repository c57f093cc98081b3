"""Ranks forked from the warm test process, at a tenth of the cost of starting new ones."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time

import torch
import torch.distributed as dist

from cotap_mm.distributed.rendezvous import join_group
from tests.helpers.rank_work import free_port
from tests.helpers.tool_loading import import_what_trainings_use

FORK = multiprocessing.get_context('fork') if hasattr(os, 'fork') else None


def _entry(work, rank, world, port, folder, timeout, variables):
    os.environ.update(
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        RANK=str(rank),
        WORLD_SIZE=str(world),
        **variables,
    )
    log = os.open(folder / f'{rank}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = os.fdopen(2, 'w', buffering=1)
    torch.set_num_threads(1)
    join_group('gloo', timeout)
    work(rank)
    dist.barrier()


class Ranks:
    """Processes of one group; each writes its output to ``folder/RANK.log``.

    Args:
        work (callable): ``work(rank)``, called in the process group.
        folder (Path): Folder for the logs.
        world (int): Number of ranks.
        timeout (float): Timeout of the process group, in seconds.
        absent (int, optional): A rank that is never started.
        **variables: Environment variables.
    """

    def __init__(self, work, folder, world=2, timeout=10, absent=None, **variables):
        import_what_trainings_use()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
        self.folder, self.port = folder, free_port()
        folder.mkdir(exist_ok=True)
        self.processes = [
            FORK.Process(
                target=_entry, args=(work, rank, world, self.port, folder, timeout, variables)
            )
            for rank in range(world)
        ]
        self.started = [process for rank, process in enumerate(self.processes) if rank != absent]
        for process in self.started:
            process.start()
        torch.set_num_threads(threads)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.started:
            process.kill()
            process.join()

    def pid(self, rank):
        return self.processes[rank].pid

    def log(self, rank):
        return (self.folder / f'{rank}.log').read_text()

    def exit_code(self, rank, seconds=120):
        """Exit code of a rank; None if it is still running after that time."""
        self.processes[rank].join(seconds)
        return self.processes[rank].exitcode

    def wait_for(self, path, seconds=120):
        """Wait until a file exists."""
        end = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < end, [self.log(i) for i in range(len(self.processes))]
            time.sleep(0.05)


class _Saved:
    """Save the result of ``work(rank)``."""

    def __init__(self, work, folder):
        self.work, self.folder = work, folder

    def __call__(self, rank):
        torch.save(self.work(rank), self.folder / f'{rank}.pth')


def on_forked_ranks(work, folder, world=2, **options):
    """Results of ``work(rank)`` of several processes."""
    with Ranks(_Saved(work, folder), folder, world, **options) as ranks:
        codes = [ranks.exit_code(rank) for rank in range(world)]
        assert codes == [0] * world, [ranks.log(rank) for rank in range(world)]
    return [torch.load(folder / f'{rank}.pth', weights_only=True) for rank in range(world)]
