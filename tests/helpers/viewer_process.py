"""Run the viewer in its own process and query it by plain HTTP."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.toy_config import write_noise


def write_images(folder, count=3):
    rng = np.random.default_rng(0)
    for index in range(count):
        write_noise(folder / f'{index}.png', rng, block=8)


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def command(*arguments, python=sys.executable):
    return [python, '-W', 'ignore', '-m', 'cotap_mm', 'viewer', *map(str, arguments)]


@contextmanager
def running(log, *arguments, python=sys.executable, **options):
    """Start a viewer, wait until it responds, and yield its port."""
    port = free_port()
    with open(log, 'w') as file:
        server = subprocess.Popen(
            command(*arguments, '--port', port, '--device', 'cpu', python=python),
            stdout=file,
            stderr=subprocess.STDOUT,
            **options,
        )
    try:
        for _ in range(480):
            assert server.poll() is None, Path(log).read_text()
            with socket.socket() as probe:
                if probe.connect_ex(('127.0.0.1', port)) == 0:
                    break
            time.sleep(0.25)
        yield port
    finally:
        server.terminate()
        server.wait(30)


class Client:
    """Minimal HTTP client that sends paths unchanged."""

    def __init__(self, port):
        self.port = port

    def ask(self, path, method='GET', body=None, headers=None):
        """Return status, headers as text, and body; None, '' and b'' on a closed connection."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)
        try:
            connection.request(
                method, path, body, {'Content-Type': 'application/json', **(headers or {})}
            )
            answer = connection.getresponse()
            return answer.status, str(answer.headers), answer.read()
        except (BrokenPipeError, ConnectionResetError):  # while the request was being sent
            return None, '', b''
        finally:
            connection.close()

    def config(self):
        return json.loads(self.ask('/config')[2])

    def networks(self):
        return next(
            part['props']['value']
            for part in self.config()['components']
            if part['props'].get('elem_id') == 'networks'
        )

    def draw(
        self,
        chosen,
        mode='similarity',
        number=0,
        count=8,
        networks=None,
        session='session',
    ):
        """Request a drawing and return the final event of the queue: success and output."""
        number_of = next(
            fn['id'] for fn in self.config()['dependencies'] if fn['api_name'] == 'draw'
        )
        body = dict(
            data=[chosen, mode, number, count, networks or self.networks(), None],
            fn_index=number_of,
            session_hash=session,
            event_data=None,
        )
        status, _, answer = self.ask('/gradio_api/queue/join', 'POST', json.dumps(body))
        assert status == 200, answer
        stream = self.ask(f'/gradio_api/queue/data?session_hash={session}')[2].decode()
        events = [json.loads(line[5:]) for line in stream.splitlines() if line.startswith('data:')]
        return next(event for event in events if event['msg'] == 'process_completed')


def picture(value):
    """Return the pixels of a sheet in a response."""
    start, data = value['url'].split(',', 1)
    assert start == 'data:image/png;base64'
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image)
