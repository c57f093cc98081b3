"""Requests that the filter passes; test_viewer_server.py uses real connections."""

from __future__ import annotations

import argparse
import asyncio
import socket

import pytest

from cotap_mm.command_line.web_address import host_name, root_path
from cotap_mm.visualization.viewer.address import check_port
from cotap_mm.visualization.viewer.request_filter import MOST_OPEN, RequestFilter, is_loopback


def ask(bound, path='/', method='GET', kind='http', names=(), root_path='', passed=None, **headers):
    """Return the status of a request through the filter to an application that returns 200."""
    sent, reached = [], []

    async def app(scope, receive, send):
        reached.append(await receive())
        if passed is not None:
            passed.extend(scope['headers'])
        await send(dict(type='http.response.start', status=200, headers=[]))

    async def receive():
        return dict(type='http.request', body=b'hello')

    async def send(message):
        sent.append(message)

    scope = dict(
        type=kind,
        method=method,
        path=path,
        headers=[(key.encode(), value.encode()) for key, value in headers.items()],
    )
    asyncio.run(RequestFilter(app, bound, names, root_path)(scope, receive, send))
    if reached:
        assert reached[0]['body'] == b'hello'
    return sent[0]['status'] if sent else None


@pytest.mark.parametrize(
    'host, inside',
    [
        ('127.0.0.1', True),
        ('localhost', True),
        ('127.1.2.3', True),
        ('::1', True),
        ('0.0.0.0', False),
        ('192.168.0.7', False),
        ('127.0.0.1.example', False),
        ('example', False),
    ],
)
def test_loopback_addresses(host, inside):
    assert is_loopback(host) is inside


def test_public_server_accepts_any_name_but_only_its_own_pages():
    assert ask('127.0.0.1', host='example') == 403
    assert ask('127.0.0.1', host='127.0.0.1:80') == 200
    assert ask('0.0.0.0', host='example') == 200
    assert ask('0.0.0.0', host='example', origin='http://example') == 200
    assert ask('0.0.0.0', host='example', origin='http://other') == 403
    assert ask('0.0.0.0', '/gradio_api/file=/etc/passwd', host='example') == 404
    assert ask('0.0.0.0', '/assets/../secret', host='example') == 404


def test_no_web_sockets():
    assert ask('127.0.0.1', kind='websocket', host='127.0.0.1') is None


def test_behind_a_proxy_only_the_named_hosts_are_accepted():
    def status(**headers):
        return ask(
            '127.0.0.1',
            names=('viewer.example.org', 'other.example:8443'),
            root_path='/look',
            **headers,
        )

    assert status(host='viewer.example.org') == 200
    assert status(host='VIEWER.example.org:443', origin='https://viewer.example.org') == 200
    assert status(host='other.example:8443') == 200
    assert status(host='127.0.0.1:80', origin='https://viewer.example.org') == 200
    assert status(host='127.0.0.1:80', path='/look/config') == 200
    assert status(host='127.0.0.1:80', path='/look') == 200
    for headers in (
        dict(host='other.example'),
        dict(host='other.example:8444'),
        dict(host='example.org'),
        dict(host='x.viewer.example.org'),
        dict(host='viewer.example.org.evil'),
        dict(host='127.0.0.1', origin='https://example.org'),
        {'host': '127.0.0.1', 'x-forwarded-host': 'example.org'},
    ):
        assert status(**headers) == 403, headers
    assert status(host='127.0.0.1', path='/look/../secret') == 404
    # On a public address, only these names are accepted, too.
    assert ask('0.0.0.0', names=('viewer.example.org',), host='viewer.example.org') == 200
    assert ask('0.0.0.0', names=('viewer.example.org',), host='example.org') == 403


@pytest.mark.parametrize('host', ['', 'a b', 'example:99999', 'example:x', '[::1', 'x@y', 'a/b'])
def test_invalid_host_header(host):
    assert ask('0.0.0.0', host=host) == 400


def test_headers_that_select_another_server_are_dropped():
    passed = []
    ask(
        '127.0.0.1',
        host='127.0.0.1',
        passed=passed,
        **{'x-gradio-server': 'http://[', 'x-forwarded-proto': 'https'},
    )
    assert dict(passed) == {b'host': b'127.0.0.1'}


def test_too_many_concurrent_requests():
    async def work():
        release, answers = asyncio.Event(), []

        async def app(scope, receive, send):
            await release.wait()
            await send(dict(type='http.response.start', status=200, headers=[]))

        async def receive():
            return dict(type='http.request', body=b'')

        async def send(message):
            answers.append(message.get('status'))

        request_filter = RequestFilter(app, '127.0.0.1')
        scope = dict(type='http', method='GET', path='/', headers=[(b'host', b'127.0.0.1')])
        waiting = [
            asyncio.create_task(request_filter(scope, receive, send)) for _ in range(MOST_OPEN)
        ]
        await asyncio.sleep(0)
        await request_filter(scope, receive, send)
        assert answers[0] == 503
        release.set()
        await asyncio.gather(*waiting)
        await request_filter(scope, receive, send)
        assert answers[-1] == 200 and answers.count(503) == 1

    asyncio.run(work())


@pytest.mark.parametrize(
    'text',
    [
        '*',
        'https://example.org',
        'a b',
        'example:0',
        'example:99999',
        'example/x',
        'user@example',
        '',
    ],
)
def test_invalid_host_names(text):
    with pytest.raises(argparse.ArgumentTypeError):
        host_name(text)


@pytest.mark.parametrize(
    'text',
    [
        'viewer',
        '//evil',
        '/a/../b',
        '/a?b',
        'ftp://x/y',
        'https://',
        'https://a b/c',
        'https://example:0/',
        '/a b',
        '/é',
    ],
)
def test_invalid_root_paths(text):
    with pytest.raises(argparse.ArgumentTypeError):
        root_path(text)


def test_valid_host_names_and_root_paths():
    assert host_name('Images.Example.org:8443') == 'images.example.org:8443'
    assert host_name('bücher.example') == 'xn--bcher-kva.example'
    assert root_path('/viewer/') == '/viewer'
    assert root_path('https://example.org/a/b') == 'https://example.org/a/b'


def test_addresses_that_cannot_be_bound():
    assert check_port('127.0.0.1', 0) > 0
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ValueError, match=f'127.0.0.1:{port} .* --port, ([0-9]+) is free'
        ) as busy:
            check_port('127.0.0.1', port)
        assert check_port('127.0.0.1', int(str(busy.value).split()[-3])) > port
    for host in ('no-such-host.invalid', 'a' * 70, '999.1.1.1'):
        with pytest.raises(ValueError, match=f'--host {host} cannot be resolved'):
            check_port(host, 7860)
    with pytest.raises(ValueError, match='another --host'):
        check_port('192.0.2.1', 7860)  # reserved for documentation
