"""Filter the requests to the viewer's server.

Gradio's server does more than the page needs: it stores uploads of any kind, serves files of a
temporary folder, and calls other servers. The filter passes only requests that the page itself
makes; all others get a short response that reveals nothing about the machine.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Callable, Optional
from urllib.parse import parse_qs, urlsplit

from .calls import SESSION, BadCall, parse_call
from .sessions import PageSessions

MOST_BYTES = 65536  # size of a request body; those of the page have about 300
MOST_OPEN = 100  # concurrent requests; a browser has about two

_ANSWERED = {
    'GET': re.compile(
        r'/|/config|/theme\.css|/manifest\.json|/favicon\.ico|'
        r'/(assets|static)/[\w./@+-]+|'
        r'/gradio_api/(app_id|startup-events|queue/data|heartbeat/[\w-]{1,64})',
        re.ASCII,
    ),
    'HEAD': re.compile('/'),
    'POST': re.compile('/gradio_api/queue/join'),
}
_ANSWERS = '/gradio_api/queue/data'
_HEADERS = {
    'cache-control': 'no-store',  # photographs must not stay on a disk
    'content-security-policy': "frame-ancestors 'none'",
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
}
_LOOPBACK = ('127.0.0.1', 'localhost', '::1')
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Refusal = tuple[int, str]
_NOT_FOUND: Refusal = (404, 'Not found.')


class RequestFilter:
    """ASGI middleware that rejects requests that the page does not make.

    On a loopback address, requests with another host name are rejected too: otherwise a
    malicious web page could resolve its own name to 127.0.0.1 (DNS rebinding) and read the
    images.

    Args:
        app: ASGI application to protect.
        host (str): Address that the server is bound to.
        names (sequence): Host names, or NAME:PORT, under which a reverse proxy serves the page.
            If there are any, requests with other names than these and those of the machine are
            rejected, whatever the address. Defaults to ().
        root_path (str): Path, or URL, under which a reverse proxy serves the page. The proxy
            may keep the path in its requests. Defaults to ''.
        inputs (mapping, optional): Functions of the page: ID -> number of inputs.
            Defaults to None (not checked).
        sessions (PageSessions, optional): Limits of what is kept per user. Defaults to None
            (unlimited).
    """

    def __init__(
        self,
        app: Any,
        host: str,
        names: Sequence[str] = (),
        root_path: str = '',
        inputs: Optional[Mapping[int, int]] = None,
        sessions: Optional[PageSessions] = None,
    ) -> None:
        self.app, self.inputs, self.sessions = app, inputs, sessions
        self.names = tuple(name.lower() for name in names)
        self.hosts = (*_LOOPBACK, host) if is_loopback(host) or names else None
        self.prefix = urlsplit(root_path).path.rstrip('/')
        self._open = 0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request to the application, or reject it."""
        if scope['type'] == 'lifespan':
            await self.app(scope, receive, send)
        elif scope['type'] == 'http':  # but not web sockets
            if self._open >= MOST_OPEN:
                await _refuse(send, 503, 'Too many concurrent requests.')
                return
            self._open += 1
            try:
                await self._answer(self._plain(scope), receive, send)
            finally:
                self._open -= 1

    async def _answer(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        refusal = self._refusal(scope['method'], scope['path'], headers)
        body = None if refusal else await _read_body(receive)
        if not refusal and body is None:
            refusal = 413, 'The request is too large.'
        session = ''
        if not refusal and scope['method'] == 'POST':
            try:
                session, body = parse_call(body, headers.get('content-type', ''), self.inputs)
                refusal = self.sessions and self.sessions.join(session)
            except BadCall as bad:
                refusal = bad.status, bad.sentence
        elif not refusal and scope['path'] == _ANSWERS:
            session = parse_qs(scope['query_string'].decode('latin-1')).get('session_hash', [''])[0]
            if (
                not SESSION.fullmatch(session)
                or self.sessions
                and not self.sessions.may_read(session)
            ):
                refusal = _NOT_FOUND
        if refusal:
            await _refuse(send, *refusal)
        elif scope['path'] == _ANSWERS and self.sessions:
            self.sessions.start_reading(session)
            try:
                await self.app(scope, _again(body, receive), _with_headers(send))
            finally:
                self.sessions.stop_reading(session)
        else:
            await self.app(scope, _again(body, receive), _with_headers(send))

    def _plain(self, scope: dict[str, Any]) -> dict[str, Any]:
        """Remove the prefix of a proxy, and query strings and headers that the page never sends."""
        path = scope['path']
        if self.prefix and (path == self.prefix or path.startswith(f'{self.prefix}/')):
            path = path[len(self.prefix) :] or '/'
        query = scope.get('query_string', b'')
        if path.rstrip('/') != _ANSWERS and query not in (b'__theme=light', b'__theme=dark'):
            query = b''
        drop = {
            b'x-gradio-server',
            *(() if self.names else (b'x-forwarded-host', b'x-forwarded-proto')),
        }
        headers = [(key, value) for key, value in scope['headers'] if key.lower() not in drop]
        return dict(
            scope,
            path=path.rstrip('/') or '/',
            raw_path=path.encode(),
            query_string=query,
            headers=headers,
        )

    def _refusal(self, method: str, path: str, headers: dict[str, str]) -> Optional[Refusal]:
        host, origin = headers.get('host', ''), headers.get('origin')
        for name in (host, headers.get('x-forwarded-host', host)):
            if self.hosts is not None and not self._is_own(name):
                return 403, 'This page is available only on the machine that it runs on.'
            if not _name(name):
                return 400, 'The Host header is missing or invalid.'
        if origin is not None:
            netloc = _netloc(origin)
            if netloc != host and not self._is_allowed(netloc):
                return 403, 'Requests from other pages are not allowed.'
        pattern = _ANSWERED.get(method)
        if pattern is None or '..' in path or not pattern.fullmatch(path):
            return _NOT_FOUND
        return None

    def _is_own(self, netloc: str) -> bool:
        return _name(netloc) in self.hosts or self._is_allowed(netloc)

    def _is_allowed(self, netloc: str) -> bool:
        """Return whether a host, with its port if it has one, is in ``names``."""
        return netloc.lower() in self.names or _name(netloc) in self.names


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached only from this machine."""
    return host in _LOOPBACK or re.fullmatch(r'127(\.\d{1,3}){3}', host) is not None


def _headers(scope: dict[str, Any]) -> dict[str, str]:
    return {key.decode('latin-1'): value.decode('latin-1') for key, value in scope['headers']}


def _name(host: str) -> str:
    """Convert ``[::1]:80`` to ``::1``; return '' for an invalid host."""
    if not re.fullmatch(r'[\w.\[\]:-]+', host, re.ASCII):
        return ''
    try:
        parts = urlsplit(f'//{host}')
        return (parts.hostname or '') if parts.port != 0 else ''
    except ValueError:  # also for a port that is out of range
        return ''


def _netloc(origin: str) -> str:
    """Convert ``https://name:80`` to ``name:80``; return '' if it is not the URL of a page."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return ''
    return parts.netloc if parts.scheme in ('http', 'https') else ''


async def _read_body(receive: Receive) -> Optional[bytes]:
    """Read the body of a request; return None if it is too large, whatever its header says."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message['type'] == 'http.disconnect':
            return b''
        parts.append(message.get('body', b''))
        size += len(parts[-1])
        if size > MOST_BYTES:
            return None
        more = message.get('more_body', False)
    return b''.join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that replays a body that has been read."""
    pending = [dict(type='http.request', body=body, more_body=False)]

    async def receive_again() -> dict[str, Any]:
        return pending.pop() if pending else await receive()

    return receive_again


def _with_headers(send: Send) -> Send:
    """Return a ``send`` that adds the security headers."""

    async def send_all(message: dict[str, Any]) -> None:
        if message['type'] == 'http.response.start':
            kept = [
                (key, value)
                for key, value in message.get('headers', ())
                if key.decode('latin-1').lower() not in _HEADERS
            ]
            message = dict(message, headers=[*kept, *_encoded(_HEADERS.items())])
        await send(message)

    return send_all


async def _refuse(send: Send, status: int, sentence: str) -> None:
    body = sentence.encode()
    headers = [
        ('content-type', 'text/plain; charset=utf-8'),
        ('content-length', str(len(body))),
        ('connection', 'close'),
        *_HEADERS.items(),
    ]
    await send(dict(type='http.response.start', status=status, headers=_encoded(headers)))
    await send(dict(type='http.response.body', body=body))


def _encoded(headers: Any) -> Sequence[tuple[bytes, bytes]]:
    return [(key.encode(), value.encode()) for key, value in headers]
