"""Memory that the viewer keeps per session, with a fake of Gradio's page."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cotap_mm.visualization.viewer.render import Drawing
from cotap_mm.visualization.viewer.sessions import MOST_SESSIONS, MOST_UNREAD, PageSessions
from tests.helpers.viewer_process import Client, free_port


def make_page():
    queue = SimpleNamespace(
        pending_messages_per_session={}, pending_event_ids_session={}, event_ids_to_events={}
    )
    return SimpleNamespace(
        _queue=queue, state_holder=SimpleNamespace(session_data={}, time_last_used={})
    )


def answer(page, session, size=100):
    """Store what Gradio stores when a drawing is done."""
    messages = page._queue.pending_messages_per_session.setdefault(session, asyncio.Queue())
    picture = dict(url='x' * size)
    messages.put_nowait(SimpleNamespace(output=dict(data=[picture, 'note'])))
    page._queue.pending_event_ids_session.setdefault(session, set()).add('event')
    page.state_holder.session_data[session] = SimpleNamespace(
        config_values={1: dict(props=dict(value=picture)), 2: dict(props={}), 3: {}}
    )
    page.state_holder.time_last_used[session] = 0


def kept(page):
    everywhere = [
        set(page._queue.pending_messages_per_session),
        set(page._queue.pending_event_ids_session),
        set(page.state_holder.session_data),
        set(page.state_holder.time_last_used),
    ]
    assert all(names == everywhere[0] for names in everywhere)
    return sorted(everywhere[0])


def test_least_recently_used_sessions_are_dropped():
    page = make_page()
    sessions = PageSessions(page, most_sessions=3)
    for session in 'abc':
        assert sessions.join(session) is None
        answer(page, session)
    sessions.join('a')  # is used again
    assert sessions.join('d') is None
    answer(page, 'd')
    assert kept(page) == ['a', 'c', 'd']


def test_pictures_are_bounded_in_bytes():
    page = make_page()
    sessions = PageSessions(page, most_bytes=5000)
    for number in range(20):
        assert sessions.join(f's{number:02d}') is None
        answer(page, f's{number:02d}', 2000)
        answer(page, f's{number:02d}', 400)  # other pictures in the same session
        assert sessions.num_bytes() <= 5000 + 2400
    assert kept(page)[-1] == 's19' and len(kept(page)) <= 3


def test_session_that_reads_or_waits_is_never_dropped():
    page = make_page()
    sessions = PageSessions(page, most_sessions=2)
    for session in 'ab':
        sessions.join(session)
        answer(page, session)
    assert sessions.may_read('a') and not sessions.may_read('unknown')
    sessions.start_reading('a')
    assert not sessions.may_read('a')  # a second reader would steal the responses
    page._queue.event_ids_to_events['e'] = SimpleNamespace(session_hash='b')
    status, sentence = sessions.join('c')
    assert status == 503 and kept(page) == ['a', 'b']
    sessions.stop_reading('a')
    assert sessions.join('c') is None and kept(page) == ['b']
    assert not sessions._reading  # nothing remains of sessions that have left


def test_responses_must_be_read():
    page = make_page()
    sessions = PageSessions(page)
    for _ in range(MOST_UNREAD + 1):
        assert sessions.join('a') is None
        answer(page, 'a')
    assert sessions.join('a')[0] == 429
    assert sessions.join('b') is None


@pytest.mark.parametrize('count', [1, 500])
def test_nothing_grows_with_the_number_of_sessions(count):
    page = make_page()
    sessions = PageSessions(page, most_sessions=4)
    for number in range(count):
        assert sessions.join(f's{number}') is None
        answer(page, f's{number}')
        sessions.start_reading(f's{number}')
        sessions.stop_reading(f's{number}')
    assert len(kept(page)) <= 4 and len(sessions._last_used) <= 4 and not sessions._reading


class NoiseBrowser:
    """Draws a different picture of about 1.2 MB each time."""

    names, modes, encoders = ['a.png', 'b.png'], {'similarity': None}, {'noise': None}

    def __init__(self):
        self.random = np.random.default_rng(0)

    def num_prototypes(self, image):
        return 0

    def draw(self, *args):
        return Drawing(self.random.integers(0, 256, (300, 1000, 3), dtype=np.uint8), 'note')


def megabytes():
    status = Path('/proc/self/status').read_text()
    return int(next(line for line in status.splitlines() if 'VmRSS' in line).split()[1]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs /proc')
def test_sessions_that_never_read_take_bounded_memory():
    """Gradio keeps all of their pictures: more than 100 MB for 90 sessions."""
    pytest.importorskip('gradio', reason='the viewer needs gradio')
    from cotap_mm.visualization.viewer.app import build_page, serve

    page, port = build_page(NoiseBrowser(), [0], 'noise'), free_port()
    page.cotap_sessions.most_bytes = 2**24
    serve(page, '127.0.0.1', port, wait=False)
    try:
        client = Client(port)

        def call(session):
            data = [[0], 'similarity', 0, 8, ['noise'], None]
            body = dict(data=data, fn_index=1, session_hash=session)
            for _ in range(600):
                if client.ask('/gradio_api/queue/join', 'POST', json.dumps(body))[0] == 200:
                    return
                time.sleep(0.05)  # the queue is full
            raise AssertionError('the server remains busy')

        for number in range(20):
            call(f'first{number}')
        before = megabytes()
        for number in range(90):
            call(f's{number}')
        while page._queue.event_ids_to_events:
            time.sleep(0.05)
        grown = megabytes() - before
        assert grown < 60, grown
        assert page.cotap_sessions.num_bytes() < 2**24 + 4 * 2**20
        for kept in (
            page._queue.pending_messages_per_session,
            page._queue.pending_event_ids_session,
            page.state_holder.session_data,
            page.state_holder.time_last_used,
        ):
            assert len(kept) <= MOST_SESSIONS
        assert client.draw([0])['success']
    finally:
        page.close()
