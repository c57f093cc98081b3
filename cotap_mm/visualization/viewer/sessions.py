"""Bound what the viewer's server keeps for those who have opened the page.

Gradio keeps the answers that a session has not read, and the last picture that it has got, for
thousands of sessions. Here sessions are forgotten, the longest unused ones first, as soon as
there are too many or their pictures take too much memory. A session that is forgotten and calls
again starts anew.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from typing import Any, Optional

MOST_SESSIONS = 32
MOST_BYTES = 2**26  # of pictures that are kept for all sessions together
MOST_UNREAD = 32  # messages of one session, about ten answers
MOST_WAITING = 32  # calls that are not computed yet, of all sessions together
_BUSY = (503, 'The server is busy, try again later.')


class PageSessions:
    """The sessions of a page that is served.

    Args:
        page (gradio.Blocks): The page.
        most_sessions (int): Sessions that are kept. Defaults to 32.
        most_bytes (int): Bytes of the pictures that are kept. Defaults to 64 MiB.
    """

    def __init__(
        self, page: Any, most_sessions: int = MOST_SESSIONS, most_bytes: int = MOST_BYTES
    ) -> None:
        self.page, self.most_sessions, self.most_bytes = page, most_sessions, most_bytes
        self._last_used: OrderedDict[str, None] = OrderedDict()
        self._reading: Counter[str] = Counter()
        self._lock = threading.RLock()

    def join(self, session: str) -> Optional[tuple[int, str]]:
        """Take note of a call; status and sentence of a refusal if there is no room for it."""
        with self._lock:
            messages = self._queue.pending_messages_per_session.get(session)
            if messages is not None and messages.qsize() > MOST_UNREAD:
                return 429, 'Read the answers first.'
            self._last_used[session] = None
            self._last_used.move_to_end(session)
            self.make_room(keep=session)
            if len(self._last_used) > self.most_sessions:
                del self._last_used[session]
                return _BUSY
            return None

    def may_read(self, session: str) -> bool:
        """Whether a session is known and nobody reads its answers yet."""
        with self._lock:
            return (
                not self._reading[session] and session in self._queue.pending_messages_per_session
            )

    def start_reading(self, session: str) -> None:
        """Keep a session while its answers are being read."""
        with self._lock:
            self._reading[session] += 1

    def stop_reading(self, session: str) -> None:
        """Undo :meth:`start_reading`."""
        with self._lock:
            self._reading[session] -= 1
            self._reading = +self._reading

    def make_room(self, keep: str = '') -> None:
        """Forget the longest unused sessions until the rest is within the bounds.

        Args:
            keep (str): A session that stays. Sessions stay as well whose answers are being
                read or computed.
        """
        with self._lock:
            busy = {event.session_hash for event in list(self._queue.event_ids_to_events.values())}
            for session in list(self._last_used):
                if session == keep or session in busy or self._reading[session]:
                    continue
                if (
                    len(self._last_used) <= self.most_sessions
                    and self.num_bytes() <= self.most_bytes
                ):
                    return
                self._forget(session)

    def num_bytes(self) -> int:
        """Bytes of all pictures in unread answers and in the states of sessions."""
        messages = [
            each
            for queue in list(self._queue.pending_messages_per_session.values())
            for each in list(queue._queue)
        ]
        values = [
            part
            for message in messages
            for part in (getattr(message, 'output', None) or {}).get('data', ())
        ]
        for state in list(self._states.values()):
            values += [
                (config.get('props') or {}).get('value')
                for config in list(state.config_values.values())
                if config
            ]
        # A picture that has not been drawn anew is the same object in all sessions.
        return sum({id(url): len(url) for url in map(_url, values) if url}.values())

    @property
    def _queue(self) -> Any:
        return self.page._queue

    @property
    def _states(self) -> Any:
        return self.page.state_holder.session_data

    def _forget(self, session: str) -> None:
        self._last_used.pop(session, None)
        self._queue.pending_messages_per_session.pop(session, None)
        self._queue.pending_event_ids_session.pop(session, None)
        self._states.pop(session, None)
        self.page.state_holder.time_last_used.pop(session, None)


def _url(value: Any) -> Optional[str]:
    url = value.get('url') if isinstance(value, dict) else getattr(value, 'url', None)
    return url if isinstance(url, str) else None
