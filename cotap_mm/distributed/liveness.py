"""Decide from heartbeats which ranks no longer answer, and describe them."""

from __future__ import annotations

import os
import time

from .messenger import LEFT, POLL, Messenger, agent_holds_store

_BROKEN = 10.0  # seconds to finish after the connection to the store has closed
_ANSWER = 5.0  # seconds for the other ranks to report that they are waiting as well


class Liveness:
    """Silence of the other ranks and of the store, measured in this process.

    Args:
        messenger (Messenger): Receives the heartbeats.
        limit (float): Seconds of silence after which a rank counts as lost.
    """

    def __init__(self, messenger: Messenger, limit: float) -> None:
        self.limit = limit
        self._messenger = messenger
        self._silence = [0.0] * messenger.size
        self._store_silence = 0.0
        self._seen: tuple[int, list[int]] = (0, [0] * messenger.size)

    def update(self, passed: float) -> None:
        """Add the time since the last call to the silence of ranks without a new heartbeat.

        Args:
            passed (float): Seconds since the last call in which this process was running.
        """
        rounds, beats = self._messenger.rounds, self._messenger.beats
        before, seen = self._seen
        if rounds == before:
            self._store_silence += passed
            return
        passed += min(self._store_silence, 4 * POLL)
        self._store_silence = 0.0
        self._seen = rounds, list(beats)
        self._silence = [
            0.0 if new != old or other == self._messenger.rank else seconds + passed
            for other, (old, new, seconds) in enumerate(zip(seen, beats, self._silence))
        ]

    def lost(self) -> str:
        """Describe the ranks that have been silent for too long; '' if there are none."""
        beats = self._messenger.beats
        if beats[0] < LEFT:
            limit = min(_BROKEN, self.limit) if self._messenger.broken else self.limit
            if self._store_silence > limit:
                return self._describe_store()
        return self._describe(
            [
                other
                for other, seconds in enumerate(self._silence)
                if seconds > self.limit and beats[other] < LEFT
            ]
        )

    def left(self) -> list[int]:
        """Ranks that have exited regularly."""
        return [other for other, beat in enumerate(self._messenger.beats) if beat >= LEFT]

    def missing(self) -> str:
        """After a failed collective, describe the ranks that do not report the same failure."""
        messenger = self._messenger
        others = [other for other in range(messenger.size) if other != messenger.rank]
        ask, end = messenger.ask, time.monotonic() + _ANSWER
        if ask(lambda store: store.set(f'waits/{messenger.rank}', '1') or True, _ANSWER) is None:
            return self._describe_store()
        while others and time.monotonic() < end:
            silent = ask(
                lambda store: [other for other in others if not store.check([f'waits/{other}'])],  # noqa: B023
                _ANSWER,
            )
            if silent is None:
                return self._describe_store()
            others = silent
            time.sleep(0.2)
        return (
            self._describe(others)
            or 'the connection to another rank was lost, but all ranks still answer'
        )

    def _describe(self, ranks: list[int]) -> str:
        if not ranks:
            return ''
        named = ', '.join(map(self._messenger.describe, ranks))
        if len(ranks) == 1:
            return f'rank {named} does not answer: it died (out of memory?) or hangs'
        return f'ranks {named} do not answer: they died (out of memory?) or hang'

    def _describe_store(self) -> str:
        address = f'{os.environ["MASTER_ADDR"]}:{os.environ["MASTER_PORT"]}'
        if agent_holds_store():
            return (
                f'torchrun at {address}, which started rank 0 and hosts the store of the run, '
                'does not answer: it or its machine died or was stopped'
            )
        return f'{self._describe([0])} (it hosts the store of the run at {address})'
