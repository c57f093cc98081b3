"""What the guard lets through; over real connections in test_viewer_server.py."""
import asyncio

import pytest

from cotap_mm.visualization.page_guard import PageGuard, is_loopback


def ask(bound, path='/', method='GET', kind='http', **headers):
    """Status of the answer of a guard in front of an application that answers 200."""
    sent, reached = [], []

    async def app(scope, receive, send):
        reached.append(await receive())
        await send(dict(type='http.response.start', status=200, headers=[]))

    async def receive():
        return dict(type='http.request', body=b'hello')

    async def send(message):
        sent.append(message)

    scope = dict(type=kind, method=method, path=path,
                 headers=[(key.encode(), value.encode()) for key, value in headers.items()])
    asyncio.run(PageGuard(app, bound)(scope, receive, send))
    if reached:
        assert reached[0]['body'] == b'hello'
    return sent[0]['status'] if sent else None


@pytest.mark.parametrize('host, inside', [
    ('127.0.0.1', True), ('localhost', True), ('127.1.2.3', True), ('::1', True),
    ('0.0.0.0', False), ('192.168.0.7', False), ('127.0.0.1.example', False), ('example', False)])
def test_addresses_of_this_machine_only(host, inside):
    assert is_loopback(host) is inside


def test_a_server_for_others_answers_to_any_name_but_only_its_own_pages():
    assert ask('127.0.0.1', host='example') == 403
    assert ask('127.0.0.1', host='127.0.0.1:80') == 200
    assert ask('0.0.0.0', host='example') == 200
    assert ask('0.0.0.0', host='example', origin='http://example') == 200
    assert ask('0.0.0.0', host='example', origin='http://other') == 403
    assert ask('0.0.0.0', '/gradio_api/file=/etc/passwd', host='example') == 404
    assert ask('0.0.0.0', '/assets/../secret', host='example') == 404


def test_no_web_sockets():
    assert ask('127.0.0.1', kind='websocket', host='127.0.0.1') is None
