"""Run trainings in processes forked from one that has imported everything."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from mmengine.config import Config

from tests.helpers.fault_harness.draw import Fault
from tests.helpers.fault_harness.inject import Injector, is_a_kill, set_clock_back
from tests.helpers.fault_harness.probes import Probes
from tests.helpers.tool_loading import import_what_trainings_use, load_tool

LIMIT = 150.0  # seconds after which a try counts as hung; a dozen are usual on a busy machine
SHORT_TIMEOUT = 10  # timeout of collectives if a rank is lost on purpose, in seconds
_LAUNCHERS = (
    'TORCHELASTIC',
    'PET_',
    'SLURM',
    'GLOO',
    'NNODES',
    'NODE_RANK',
    'MASTER',
    'RANK',
    'WORLD_SIZE',
    'LOCAL_RANK',
)


@dataclass
class Try:
    """Result of one start of the command.

    Attributes:
        statuses (list[int]): Exit status of each rank, negative for a signal.
        outputs (list[str]): Output of each rank.
        hung (bool): Whether it did not finish within :data:`LIMIT`.
        happened (list[str]): Where the fault happened, by rank.
        done (int): Last finished iteration; 0 for none.
        seconds (float): Wall time.
        counts (list[dict]): Events of each rank that was not killed.
        modules (list[str]): Modules that rank 0 had imported at exit.
        hit (list[str]): Images that could not be read, of all ranks.
    """

    statuses: list[int] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    hung: bool = False
    happened: list[str] = field(default_factory=list)
    done: int = 0
    seconds: float = 0.0
    counts: list[dict] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    hit: list[str] = field(default_factory=list)


class Ranks:
    """The processes of one try, and the actions of the parent on them.

    Args:
        line (list[str]): Arguments of tools/train.py.
        folder (Path): Folder of the case.
        world (int): Number of processes.
        name (str): Name of the try; its outputs are ``output-NAME-RANK``.
        fault (Fault, optional): Fault to inject.
        counts (list[dict], optional): Events of an uninterrupted run by rank.
        clock_is_back (bool): Whether the clock is set back by one day.
        has_tmpfs (bool): See :class:`Injector`.
    """

    def __init__(
        self,
        line: list[str],
        folder: Path,
        world: int,
        name: str,
        fault: Fault | None = None,
        counts: list[dict] | None = None,
        clock_is_back: bool = False,
        has_tmpfs: bool = False,
    ) -> None:
        self.line = line if world == 1 else [*line, '--launcher', 'pytorch']
        self.folder, self.world, self.fault = folder, world, fault
        self.counts, self.clock_is_back, self.has_tmpfs = counts, clock_is_back, has_tmpfs
        self.outputs = [folder / f'output-{name}-{rank}' for rank in range(world)]
        self.result = Try(statuses=[0] * world, counts=[{} for _ in range(world)])
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.frozen: set[int] = set()
        self.ranks_of: dict[int, int] = {}

    def run(self) -> Try:
        """Start the processes, inject the fault, and wait for their exit."""
        import_what_trainings_use()
        start = time.monotonic()
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            port = probe.getsockname()[1]
        pipes: dict[int, int] = {}
        alive: dict[int, int] = {}  # process -> rank
        for rank in range(self.world):
            receiver, sender = os.pipe()
            process = os.fork()
            if process == 0:
                os.close(receiver)
                self._train(rank, port, sender)
            os.close(sender)
            pipes[receiver] = rank
            alive[process] = rank
        self.ranks_of = dict(alive)
        buffers = dict.fromkeys(pipes, b'')
        while alive or pipes:
            self._listen(pipes, buffers, alive)
            self._reap(alive)
            for due, action in self.later[:]:
                if time.monotonic() >= due:
                    self.later.remove((due, action))
                    action()
            if alive and set(alive.values()) <= self.frozen:  # all others have exited
                self._send(alive, signal.SIGKILL)
            elif alive and time.monotonic() - start > LIMIT and not self.result.hung:
                self.result.hung = True
                self._send(alive, signal.SIGCONT)
                self._send(alive, signal.SIGQUIT)  # faulthandler prints where it hangs
                time.sleep(1)
                self._send(alive, signal.SIGKILL)
        for _, action in self.later:
            action()
        self.result.seconds = time.monotonic() - start
        self.result.outputs = [path.read_text(errors='replace') for path in self.outputs]
        return self.result

    def _listen(
        self, pipes: dict[int, int], buffers: dict[int, bytes], alive: dict[int, int]
    ) -> None:
        for receiver in select.select(list(pipes), [], [], 0.05)[0] if pipes else ():
            block = os.read(receiver, 1 << 16)
            *lines, buffers[receiver] = (buffers[receiver] + block).split(b'\n')
            for line in lines:
                self._handle(line.decode(errors='replace'), pipes[receiver], alive)
            if not block:
                os.close(receiver)
                del pipes[receiver]

    def _reap(self, alive: dict[int, int]) -> None:
        for process, rank in list(alive.items()):
            has_exited, status = os.waitpid(process, os.WNOHANG)
            if has_exited:
                self.result.statuses[rank] = os.waitstatus_to_exitcode(status)
                del alive[process]
                _signal_group(process, signal.SIGKILL)  # workers of a killed rank

    def _handle(self, line: str, rank: int, alive: dict[int, int]) -> None:
        word, _, rest = line.partition(' ')
        if word == 'done':
            self.result.done = max(self.result.done, int(rest))
        elif word == 'hit':
            self.result.hit.append(rest)
        elif word == 'end':
            summary = json.loads(rest)
            self.result.counts[rank] = summary['counts']
            self.result.modules = self.result.modules or summary['modules']
        elif word in ('fault', 'worker'):
            is_first = not self.result.happened
            number, _, where = rest.partition(' ') if word == 'worker' else ('', '', rest)
            self.result.happened.append(f'rank {rank}: {where}')
            self._react(rank, alive, is_first, int(number or 0))

    def _react(self, rank: int, alive: dict[int, int], is_first: bool, worker: int) -> None:
        """Do the part of a fault that the training process cannot do to itself."""
        fault = self.fault
        assert fault is not None
        after = time.monotonic() + fault.seconds
        others = {process: other for process, other in alive.items() if other != rank}
        if worker:
            self.later.append((after, lambda: _signal(worker, signal.SIGCONT)))
        elif fault.kind == 'images away':
            if is_first:
                self.later.append((after, self._bring_images_back))
        elif fault.kind == 'freeze':
            self.frozen.add(rank)
        elif not fault.everywhere:
            if fault.kind == 'stop':
                self.later.append((after, lambda: self._send(alive, signal.SIGCONT)))
        elif fault.kind == 'stop':
            if is_first:
                self._send(others, signal.SIGSTOP)
            # Each process may also stop itself, even after the others have been continued.
            self.later.append((after, lambda: self._send(alive, signal.SIGCONT)))
        elif is_first:
            if fault.kind == 'signal':
                self._send(others, getattr(signal, fault.signal))
            elif is_a_kill(fault):
                self._send(others, signal.SIGKILL)

    def _bring_images_back(self) -> None:
        away = self.folder / 'images.away'
        if away.exists():
            away.rename(self.folder / 'images')

    @staticmethod
    def _send(processes: dict[int, int], number: int) -> None:
        for process in list(processes):
            _signal(process, number)

    def _train(self, rank: int, port: int, sender: int) -> None:
        """In the child: run the command as a user starts it."""
        status = 1
        try:
            os.setpgid(0, 0)
            handle = os.open(self.outputs[rank], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.stdout = open(1, 'w', buffering=1, closefd=False)
            sys.stderr = open(2, 'w', buffering=1, closefd=False)
            faulthandler.register(signal.SIGQUIT, file=sys.stderr, all_threads=True)
            self._set_environment(rank, port)
            # Formatting its config takes most of the start-up time of a Runner.
            Config.pretty_text = property(lambda config: repr(config._cfg_dict))

            def report(text: str) -> None:
                os.write(sender, f'{text}\n'.encode())

            probes = self._install_probes(rank, report)
            status = _main(self.line)
            modules = sorted(sys.modules) if rank == 0 else []
            report('end ' + json.dumps(dict(counts=probes.counts, modules=modules)))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _set_environment(self, rank: int, port: int) -> None:
        for name in list(os.environ):
            if name.startswith(_LAUNCHERS):
                del os.environ[name]
        is_short = (
            self.fault is not None
            and not self.fault.everywhere
            and self.fault.kind in ('kill', 'freeze', 'kill a worker')
        )
        os.environ['COTAP_DIST_TIMEOUT'] = str(SHORT_TIMEOUT if is_short else LIMIT / 2)
        if self.world > 1:
            os.environ.update(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(self.world),
                MASTER_ADDR='127.0.0.1',
                MASTER_PORT=str(port),
            )
        if self.clock_is_back:
            set_clock_back()

    def _install_probes(self, rank: int, report: Callable[[str], None]) -> Probes:
        listener: Callable = lambda *_: None  # noqa: E731
        fault = self.fault
        if fault is not None and self.counts and (fault.everywhere or fault.rank == rank):
            listener = Injector(fault, self.counts[rank], self.folder, report, self.has_tmpfs)
        probes = Probes(self.folder, listener, report)
        probes.install()
        return probes


def _main(line: list[str]) -> int:
    """Run tools/train.py in this process, and what Python does at exit."""
    status = 0
    try:
        load_tool('train').main(line)
    except SystemExit as exit_:
        if isinstance(exit_.code, str):
            print(exit_.code, file=sys.stderr)
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    return status


def _signal(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def mount_small(work: Path) -> bool:
    """Mount a file system of 4 MB at the work folder; returns whether the system allows it."""
    work.mkdir(parents=True, exist_ok=True)
    try:
        return (
            subprocess.run(
                ['mount', '-t', 'tmpfs', '-o', 'size=4m', 'none', str(work)], capture_output=True
            ).returncode
            == 0
        )
    except OSError:
        return False


def unmount(work: Path) -> None:
    """Undo :func:`mount_small`, which deletes its files."""
    subprocess.run(['umount', '-l', str(work)], capture_output=True)
