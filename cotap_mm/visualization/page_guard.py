"""What the server of the viewer answers, and to whom.

Gradio's server does more than a page of one person needs: it stores uploads of any kind, hands
out files of a temporary folder, calls other servers. Here a request is answered only if it is one
that the page makes; anything else gets a short refusal that says nothing of this machine.
"""
from __future__ import annotations

import re
from typing import Any, Awaitable, Callable, Dict, List, Optional, Sequence, Tuple
from urllib.parse import urlsplit

MOST_BYTES = 65536  # of the body of a request; the page's own are about 300

_ANSWERED = {
    'GET': re.compile(r'/|/config|/theme\.css|/manifest\.json|/favicon\.ico|/(assets|static)/.+|'
                      r'/gradio_api/(app_id|startup-events|queue/data|heartbeat/\w+)'),
    'HEAD': re.compile('/'),
    'POST': re.compile('/gradio_api/queue/join'),
}
_HEADERS = {
    'cache-control': 'no-store',  # photographs are not to stay on a disk
    'content-security-policy': "frame-ancestors 'none'",
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
}
_LOOPBACK = ('127.0.0.1', 'localhost', '::1')
Receive = Callable[[], Awaitable[Dict[str, Any]]]
Send = Callable[[Dict[str, Any]], Awaitable[None]]


class PageGuard:
    """ASGI middleware that refuses what the page does not ask for.

    On a loopback address, requests under another name are refused too: a web page from
    elsewhere can have its own name point to 127.0.0.1, and would then read the images.

    Args:
        app: The ASGI application behind it.
        host (str): Address that the server is bound to.
    """

    def __init__(self, app: Any, host: str) -> None:
        self.app = app
        self.hosts = (*_LOOPBACK, host) if is_loopback(host) else None

    async def __call__(self, scope: Dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope['type'] == 'lifespan':
            await self.app(scope, receive, send)
        elif scope['type'] == 'http':  # and no web sockets
            headers = {key.decode('latin-1'): value.decode('latin-1')
                       for key, value in scope['headers']}
            refusal = self._refusal(scope['method'], scope['path'], headers)
            body = None if refusal else await _whole_body(receive)
            if refusal or body is None:
                await _refuse(send, *(refusal or (413, 'The request is too large.')))
            else:
                await self.app(scope, _again(body, receive), _with_headers(send))

    def _refusal(self, method: str, path: str,
                 headers: Dict[str, str]) -> Optional[Tuple[int, str]]:
        host, origin = headers.get('host', ''), headers.get('origin')
        if self.hosts is not None and _name(host) not in self.hosts:
            return 403, 'This page is for the machine that it runs on.'
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, 'Requests from other pages are not answered.'
        pattern = _ANSWERED.get(method)
        if pattern is None or '..' in path or not pattern.fullmatch(path.rstrip('/') or '/'):
            return 404, 'There is nothing here.'
        return None


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    return host in _LOOPBACK or re.fullmatch(r'127(\.\d{1,3}){3}', host) is not None


def _name(host: str) -> str:
    """``[::1]:80`` -> ``::1``; '' for what is no name."""
    try:
        return urlsplit(f'//{host}').hostname or ''
    except ValueError:
        return ''


async def _whole_body(receive: Receive) -> Optional[bytes]:
    """The body of a request, None if it is too large, whatever its header says."""
    parts: List[bytes] = []
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
    """``receive`` of a request whose body has been read."""
    left = [dict(type='http.request', body=body, more_body=False)]

    async def receive_again() -> Dict[str, Any]:
        return left.pop() if left else await receive()

    return receive_again


def _with_headers(send: Send) -> Send:
    """``send`` that adds the headers above."""
    async def send_all(message: Dict[str, Any]) -> None:
        if message['type'] == 'http.response.start':
            kept = [(key, value) for key, value in message.get('headers', ())
                    if key.decode('latin-1').lower() not in _HEADERS]
            message = dict(message, headers=[*kept, *_encoded(_HEADERS.items())])
        await send(message)

    return send_all


async def _refuse(send: Send, status: int, sentence: str) -> None:
    body = sentence.encode()
    headers = [('content-type', 'text/plain; charset=utf-8'), ('content-length', str(len(body))),
               ('connection', 'close'), *_HEADERS.items()]
    await send(dict(type='http.response.start', status=status, headers=_encoded(headers)))
    await send(dict(type='http.response.body', body=body))


def _encoded(headers: Any) -> Sequence[Tuple[bytes, bytes]]:
    return [(key.encode(), value.encode()) for key, value in headers]
