"""Exchange heartbeats and failure reports with the other ranks through the store."""

from __future__ import annotations

import datetime
import os
import queue
import socket
import threading
import time
from typing import Any, Callable, TypeVar

import torch.distributed as dist

T = TypeVar('T')
POLL = 0.5  # seconds
#: Added to its heartbeat counter by a rank that exits.
LEFT = 1 << 40
_LONGEST_BEAT = 15.0  # seconds between two heartbeats


def agent_holds_store() -> bool:
    """Whether ``torchrun`` hosts the store, and not rank 0."""
    return os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True'


class Messenger(threading.Thread):
    """The only thread that accesses the store, over a connection of its own.

    Most operations of a TCPStore have no timeout: they never return if the process that hosts
    it is suspended. Other threads notice because ``rounds`` then no longer increases. The keys
    are listed in :mod:`cotap_mm.distributed.failures`.

    Args:
        rank (int): Rank of this process.
        size (int): Number of ranks.
        timeout (float): Seconds that connecting to the store may take.
        beat_every (float): Seconds between two heartbeats.
    """

    def __init__(self, rank: int, size: int, timeout: float, beat_every: float) -> None:
        super().__init__(name='rank watch: messenger', daemon=True)
        self.rank, self.size, self.timeout = rank, size, timeout
        self.beat_every = min(max(beat_every, POLL), _LONGEST_BEAT)
        self.rounds = 0
        self.broken = ''
        self.beats = [0] * size
        self.names = [''] * size
        self.names[rank] = f'process {os.getpid()} on {socket.gethostname()}'
        self.failures: dict[int, str] = {}
        self.listening: list[int] = []  # numbers of the current contexts of this process
        self.is_working: Callable[[], bool] = lambda: True
        self.ending = threading.Event()
        self._jobs: queue.Queue = queue.Queue()
        self._next_beat = 0.0
        # Restarts by torchrun share the store.
        self._prefix = f'cotap_mm/watch/{os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}'

    def describe(self, rank: int) -> str:
        """Name a rank with its process and host, as far as they are known."""
        return f'{rank} ({self.names[rank]})' if self.names[rank] else str(rank)

    def ask(self, job: Callable[[Any], T], seconds: float) -> T | None:
        """Run ``job(store)`` in this thread and wait for its result.

        Args:
            job (callable): Takes the store.
            seconds (float): Time limit.

        Returns:
            object, optional: Result of ``job``; None if the store does not answer in time.
        """
        if self.broken:
            return None
        answer: queue.Queue = queue.Queue(1)
        self._jobs.put((job, answer))
        try:
            return answer.get(timeout=seconds)
        except queue.Empty:
            return None

    def run(self) -> None:
        """Exchange messages until this rank exits or the store is gone."""
        try:
            store = dist.PrefixStore(
                self._prefix,
                dist.TCPStore(
                    os.environ['MASTER_ADDR'],
                    int(os.environ['MASTER_PORT']),
                    is_master=False,
                    timeout=datetime.timedelta(seconds=self.timeout),
                ),
            )
            store.set(f'name/{self.rank}', self.names[self.rank])
            # The store may exit with rank 0.
            while not self.ending.is_set() and (agent_holds_store() or self.beats[0] < LEFT):
                self._round(store)
                self.rounds += 1
            store.add(f'beat/{self.rank}', LEFT)
        except (RuntimeError, ValueError, OSError) as error:
            self.broken = str(error).strip().split('\n')[0][:200] or type(error).__name__

    def _round(self, store: Any) -> None:
        try:
            job, answer = self._jobs.get(timeout=POLL)
        except queue.Empty:
            pass
        else:
            answer.put(job(store))
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + self.beat_every
            if self.is_working():
                store.add(f'beat/{self.rank}', 1)
            self.beats = [store.add(f'beat/{other}', 0) for other in range(self.size)]
        else:
            self.beats[0] = store.add('beat/0', 0)
        for other, name in enumerate(self.names):
            if not name and store.check([f'name/{other}']):
                self.names[other] = store.get(f'name/{other}').decode()
        for number in list(self.listening):
            if number not in self.failures and store.check([f'failure/{number}']):
                self.failures[number] = store.get(f'failure/{number}').decode()
                self._acknowledge(store, number)

    def publish(self, number: int, text: str, seconds: float) -> bool:
        """Report a failure in a context to the other ranks, and wait for their receipts.

        Args:
            number (int): Number of the context.
            text (str): Report, which they store in :attr:`failures`.
            seconds (float): Time to wait.

        Returns:
            bool: Whether all ranks have received it or have exited.
        """

        def start(store: Any) -> bool:
            if number not in self.failures:
                self.failures[number] = text
                store.set(f'failure/{number}', text)
            self._acknowledge(store, number)
            return True

        def is_known(store: Any) -> bool:
            return all(
                store.check([f'failure/{number}/known/{other}']) or self._has_left(store, other)
                for other in range(self.size)
            )

        end = time.monotonic() + seconds
        if self.ask(start, seconds) is None:
            return False
        while time.monotonic() < end:
            known = self.ask(is_known, seconds)
            if known is not False:
                return bool(known)
            time.sleep(0.1)
        return False

    def wait_until_left(self, seconds: float) -> bool:
        """Wait until all other ranks have exited.

        Args:
            seconds (float): Time to wait.

        Returns:
            bool: Whether they have.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            left = self.ask(
                lambda store: all(
                    self._has_left(store, other) for other in range(self.size) if other != self.rank
                ),
                seconds,
            )
            if left is not False:
                return bool(left)
            time.sleep(0.1)
        return False

    def _acknowledge(self, store: Any, number: int) -> None:
        store.set(f'failure/{number}/known/{self.rank}', '1')

    @staticmethod
    def _has_left(store: Any, other: int) -> bool:
        return store.add(f'beat/{other}', 0) >= LEFT
