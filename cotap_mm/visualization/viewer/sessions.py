"""Bound the memory that the viewer's server keeps for its users.

Gradio keeps the unread responses and the last picture of thousands of sessions. Here the least
recently used sessions are dropped as soon as there are too many, or their pictures take too much
memory. A dropped session that makes another call starts from scratch.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from typing import Any, Optional

MOST_SESSIONS = 32
MOST_BYTES = 2**26  # of the pictures of all sessions together
MOST_UNREAD = 32  # messages of one session, about ten responses
MOST_WAITING = 32  # queued calls of all sessions together
_BUSY = (503, 'The server is busy; try again later.')


class PageSessions:
    """Sessions of a page that is being served.

    Args:
        page (gradio.Blocks): The page.
        most_sessions (int): Maximum number of sessions. Defaults to 32.
        most_bytes (int): Maximum size of their pictures in bytes. Defaults to 64 MiB.
    """

    def __init__(
        self, page: Any, most_sessions: int = MOST_SESSIONS, most_bytes: int = MOST_BYTES
    ) -> None:
        self.page, self.most_sessions, self.most_bytes = page, most_sessions, most_bytes
        self._last_used: OrderedDict[str, None] = OrderedDict()
        self._reading: Counter[str] = Counter()
        self._lock = threading.RLock()

    def join(self, session: str) -> Optional[tuple[int, str]]:
        """Register a call.

        Returns:
            tuple: HTTP status and message if the call is rejected, otherwise None.
        """
        with self._lock:
            messages = self._queue.pending_messages_per_session.get(session)
            if messages is not None and messages.qsize() > MOST_UNREAD:
                return 429, 'Read the pending responses first.'
            self._last_used[session] = None
            self._last_used.move_to_end(session)
            self.make_room(keep=session)
            if len(self._last_used) > self.most_sessions:
                del self._last_used[session]
                return _BUSY
            return None

    def may_read(self, session: str) -> bool:
        """Return whether a session exists and its responses are not being read."""
        with self._lock:
            return (
                not self._reading[session] and session in self._queue.pending_messages_per_session
            )

    def start_reading(self, session: str) -> None:
        """Keep a session while its responses are being read."""
        with self._lock:
            self._reading[session] += 1

    def stop_reading(self, session: str) -> None:
        """Undo :meth:`start_reading`."""
        with self._lock:
            self._reading[session] -= 1
            self._reading = +self._reading

    def make_room(self, keep: str = '') -> None:
        """Drop the least recently used sessions until the others are within the bounds.

        Args:
            keep (str): Session to keep. Sessions whose responses are being read or computed
                are also kept. Defaults to ''.
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
                self._drop(session)

    def num_bytes(self) -> int:
        """Return the size of all pictures in unread responses and session states, in bytes."""
        messages = [
            message
            for queue in list(self._queue.pending_messages_per_session.values())
            for message in list(queue._queue)
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
        # A picture that was not redrawn is the same object in all sessions.
        return sum({id(url): len(url) for url in map(_url, values) if url}.values())

    @property
    def _queue(self) -> Any:
        return self.page._queue

    @property
    def _states(self) -> Any:
        return self.page.state_holder.session_data

    def _drop(self, session: str) -> None:
        self._last_used.pop(session, None)
        self._queue.pending_messages_per_session.pop(session, None)
        self._queue.pending_event_ids_session.pop(session, None)
        self._states.pop(session, None)
        self.page.state_holder.time_last_used.pop(session, None)


def _url(value: Any) -> Optional[str]:
    url = value.get('url') if isinstance(value, dict) else getattr(value, 'url', None)
    return url if isinstance(url, str) else None
