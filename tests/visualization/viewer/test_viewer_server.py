"""Security of the viewer's server, tested by HTTP requests on this machine."""

from __future__ import annotations

import json
import os
import socket
import struct
import tempfile
import zlib

import pytest
from PIL import Image

import cotap_mm.commands.viewer
from cotap_mm.visualization.viewer.render import MOST_SHOWN
from cotap_mm.visualization.viewer.request_filter import MOST_BYTES
from cotap_mm.visualization.viewer.sheet import GAP, LABEL, PICTURE
from tests.helpers.tiny import write_checkpoint
from tests.helpers.viewer_process import Client, picture, running, write_images

pytestmark = [pytest.mark.slow, pytest.mark.smoke]  # starts the viewer in a process
SECRET = b'TOP-SECRET-CONTENT'


def write_bomb(path, side=30_000):
    """Write a PNG of a few bytes whose header declares an enormous image."""

    def chunk(kind, data):
        return (
            struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        )

    header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', zlib.compress(bytes(1000)))
        + chunk(b'IEND', b'')
    )


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Folder with a checkpoint, images (also damaged ones and links out), and a secret file."""
    place = tmp_path_factory.mktemp('quite-private')
    write_checkpoint(place / 'iter_1.pth')
    write_images(place / 'images', 4)
    write_images(place / 'elsewhere', 1)
    (place / 'secret.txt').write_bytes(SECRET)
    (place / 'images/damaged.png').write_bytes(b'\x89PNG\r\n\x1a\n and then nothing')
    write_bomb(place / 'images/enormous.png')
    (place / 'images/link.png').symlink_to(place / 'elsewhere/0.png')
    (place / 'images/secret.png').symlink_to(place / 'secret.txt')
    (place / 'images/folder').symlink_to(place / 'elsewhere')
    (place / 'images/within.png').symlink_to('0.png')
    return place


@pytest.fixture(scope='module')
def client(place):
    pytest.importorskip('gradio', reason='the viewer needs gradio')
    temporary = place / 'temporary'
    temporary.mkdir()
    environment = dict(
        os.environ, TMPDIR=str(temporary), GRADIO_ALLOWED_PATHS=str(place), GRADIO_SHARE='True'
    )
    environment.pop('GRADIO_TEMP_DIR', None)
    with running(
        place / 'log', place / 'iter_1.pth', place / 'images', '--shown', 3, env=environment
    ) as port:
        yield Client(port)


def leaks(place, *texts):
    """Return local paths that appear in responses."""
    private = [
        str(place),
        place.name,
        str(place / 'temporary'),
        tempfile.gettempdir() + '/',
        os.getcwd(),
        os.path.expanduser('~') + '/',
        'site-packages',
        'Traceback',
    ]
    texts = [text if isinstance(text, str) else text.decode('utf-8', 'replace') for text in texts]
    return [(path, text[:200]) for path in private for text in texts if path in text]


def choices(client):
    return {
        name: number
        for part in client.config()['components']
        if part['props'].get('elem_id') == 'images'
        for name, number in part['props']['choices']
    }


def test_other_machines_cannot_reach_it(client):
    with socket.socket() as probe:  # a server on all addresses would respond here
        assert probe.connect_ex(('127.0.0.2', client.port)) != 0
    assert client.ask('/')[0] == 200


@pytest.mark.parametrize(
    'headers',
    [
        {'Host': 'evil.example'},
        {'Host': 'evil.example:7860'},
        {'Host': ''},
        {'Host': '[::1'},
        {'Host': '127.0.0.1.evil.example'},
        {'Origin': 'http://evil.example'},
        {'Origin': 'null'},
    ],
)
@pytest.mark.parametrize('path', ['/', '/config', '/gradio_api/queue/join'])
def test_requests_of_other_pages_are_rejected(client, path, headers):
    method = 'POST' if path.endswith('join') else 'GET'
    status, _, body = client.ask(path, method, '{}' if method == 'POST' else None, headers)
    assert status == 403 and len(body) < 100


def test_own_names_are_accepted(client):
    for name in ('localhost', '127.0.0.1', '[::1]'):
        host = f'{name}:{client.port}'
        assert client.ask('/', headers={'Host': host, 'Origin': f'http://{host}'})[0] == 200


def test_no_upload_of_any_type_or_size(client, place):
    for content in (b'small', b'\x89PNG\r\n\x1a\n', bytes(3 * 10**6)):
        body = (
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.html"\r\n'
            b'\r\n' + content + b'\r\n--x--\r\n'
        )
        for path in (
            '/gradio_api/upload',
            '/gradio_api/upload/',
            '/upload',
            '/gradio_api/upload?upload_id=1',
        ):
            status, _, _ = client.ask(
                path, 'POST', body, {'Content-Type': 'multipart/form-data; boundary=x'}
            )
            assert status == 404 or (status is None and len(content) > 10**6)
    assert client.draw([0])['success']
    assert [path for path in (place / 'temporary').rglob('*') if path.is_file()] == []


def test_too_large_request_is_not_read(client):
    large = b'{"data": "' + b'x' * MOST_BYTES + b'"}'
    assert client.ask('/gradio_api/queue/join', 'POST', large)[0] in (413, None)
    pieces = (b'x' * 4096 for _ in range(MOST_BYTES // 4096 + 2))  # sent without a length
    assert client.ask('/gradio_api/queue/join', 'POST', pieces)[0] in (413, None)
    assert client.ask('/')[0] == 200


def test_no_path_leaves_the_folder(client, place):
    secret, image = place / 'secret.txt', place / 'images/0.png'
    asked = [
        f'/gradio_api/{how}{path}'
        for how in ('file=', 'file/', 'proxy=file://')
        for path in (
            secret,
            image,
            '/etc/passwd',
            '//etc/passwd',
            'README.md',
            f'{place}/images/../secret.txt',
            f'{place}/images/secret.png',
            '%2Fetc%2Fpasswd',
            '..%2f..%2fetc%2fpasswd',
            '../secret.txt',
        )
    ]
    asked += [f'/{start}/{"../" * 12}{str(secret)[1:]}' for start in ('static', 'assets', 'svelte')]
    asked += [f'/{start}/{"..%2f" * 12}etc%2fpasswd' for start in ('static', 'assets')]
    asked += [
        f'/static/{secret}',
        f'/assets/{secret}',
        f'/assets//{secret}',
        f'/{secret}',
        f'/custom_component/x/client/component/{secret}',
        '/robots.txt',
        '/monitoring',
        '/gradio_api/custom_component/x/client/component/..%2f..%2fsecret.txt',
        f'/gradio_api/proxy=http://127.0.0.1:{client.port}/config',
        '/gradio_api/info',
        '/gradio_api/openapi.json',
        '/gradio_api/runs',
        '/docs',
        '/login',
    ]
    for path in asked:
        status, headers, body = client.ask(path)
        assert status in (403, 404), path
        assert SECRET not in body and b'root:' not in body and b'PNG' not in body
        assert not leaks(place, headers, body)


def test_functions_are_called_through_the_queue_only(client):
    for path in (
        '/gradio_api/run/draw',
        '/gradio_api/api/draw',
        '/gradio_api/call/draw',
        '/gradio_api/cancel',
        '/gradio_api/vibe-edit',
        '/gradio_api/process_recording',
    ):
        assert client.ask(path, 'POST', '{"data": [[0], "similarity", 0, 8, null]}')[0] == 404
    for method in ('PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE'):
        assert client.ask('/', method)[0] == 404


def test_links_are_included_only_if_they_stay_in_the_folder(client, place):
    assert sorted(choices(client)) == [
        '0.png',
        '1.png',
        '2.png',
        '3.png',
        'damaged.png',
        'enormous.png',
        'within.png',
    ]
    log = (place / 'log').read_text()
    assert 'skipped 3 images outside of' in log and '--follow-links' in log


def test_drawing_is_embedded_in_the_response(client):
    found = client.draw([0, 1], 'components')
    assert found['success']
    sheet, note = found['output']['data']
    assert picture(sheet).shape == (2 * PICTURE + GAP, LABEL + 2 * PICTURE + GAP, 3)
    assert sheet['path'] is None and 'principal components' in note


@pytest.mark.parametrize('name', ['damaged.png', 'enormous.png'])
def test_unreadable_images_are_reported(client, place, name):
    found = client.draw([choices(client)[name]])
    assert not found['success']
    assert f'{name} cannot be read' in found['output']['error']
    assert not leaks(place, json.dumps(found))
    assert client.draw([0])['success']


def test_a_file_that_becomes_a_link_is_not_followed(client, place):
    """The image is not in the cache, because it was not shown before."""
    number = choices(client)['3.png']
    image = place / 'images/3.png'
    kept = image.read_bytes()
    image.unlink()
    image.symlink_to(place / 'elsewhere/0.png')
    try:
        found = client.draw([number])
        assert not found['success'] and '3.png cannot be read' in found['output']['error']
    finally:
        image.unlink()
        image.write_bytes(kept)


@pytest.mark.parametrize(
    'what',
    [
        dict(chosen=[]),
        dict(chosen=[99]),
        dict(chosen=[-1]),
        dict(chosen='x'),
        dict(chosen=[0] * (MOST_SHOWN + 1)),
        dict(chosen=[0], mode='umap'),
        dict(chosen=[0], mode='clusters', count=10**9),
        dict(chosen=[0], count=-1),
        dict(chosen=[0], mode='prototypes', number=-1),
        dict(chosen=[0], number='1e999'),
        dict(chosen=[0], networks=['unknown']),
        dict(chosen=[0], networks='all'),
        dict(chosen=[0], networks=[[0]]),
        dict(chosen=[0], count={'path': '/etc/passwd', 'meta': {'_type': 'gradio.FileData'}}),
    ],
)
def test_invalid_calls_are_rejected_without_a_path(client, place, what):
    found = client.draw(**what)
    assert not found['success']
    assert not leaks(place, json.dumps(found))


def test_responses_reveal_nothing_about_the_machine(client, place):
    for path in (
        '/',
        '/config',
        '/theme.css',
        '/manifest.json',
        '/gradio_api/app_id',
        '/gradio_api/startup-events',
        '/nowhere',
        '/gradio_api/queue/data',
    ):
        status, headers, body = client.ask(path)
        assert not leaks(place, headers, body), path
        assert 'nosniff' in headers and "frame-ancestors 'none'" in headers
    for body in ('', '{', '[]', '{"data": 3}', '{"data": [], "fn_index": 10000}'):
        status, headers, answer = client.ask('/gradio_api/queue/join', 'POST', body)
        assert status >= 400 and not leaks(place, headers, answer)


def test_malformed_calls_get_4xx_and_log_no_traceback(client, place):
    data = [[0], 'similarity', 0, 8, client.networks(), None]
    good = dict(data=data, fn_index=1, session_hash='s')
    bodies = [
        '',
        '[]',
        '{"data":NaN}',
        '{"data":[1e999]}',
        '[' * 30_000,
        *(
            json.dumps(dict(good, **wrong))
            for wrong in (
                dict(fn_index=10_000),
                dict(fn_index=-1),
                dict(fn_index=None),
                dict(data=[]),
                dict(session_hash=None),
                dict(trigger_id=2**70),
                dict(event_data=[]),
            )
        ),
    ]
    for body in bodies:
        status, headers, answer = client.ask('/gradio_api/queue/join', 'POST', body)
        assert 400 <= status < 500 and not leaks(place, headers, answer), body[:60]
    for path in ('/gradio_api/queue/data?session_hash=unknown', '/assets/%00', '/%ff', '/x'):
        assert client.ask(path)[0] == 404
    assert (
        client.ask(
            '/gradio_api/queue/join', 'POST', json.dumps(good), {'Content-Type': 'text/plain'}
        )[0]
        == 415
    )
    for chosen, number in (('x', 0), ([0], 'x'), ([[0]], 0), (None, None), ([10**30], 0)):
        assert not client.draw(chosen, number=number)['success']
    assert client.draw([0])['success']
    log = (place / 'log').read_text()
    assert 'Traceback' not in log and 'Exception' not in log


def test_list_with_paths_out_of_the_folder(place, tmp_path):
    viewer = cotap_mm.commands.viewer
    names = tmp_path / 'names.txt'
    write_images(tmp_path / 'images', 1)
    outside = os.path.relpath(place / 'elsewhere/0.png', tmp_path)
    names.write_text(f'images/0.png\n{outside}\n{place}/elsewhere/0.png\n')
    inside = viewer.open_source(str(names), follow_links=False)
    assert [inside.name(i) for i in range(len(inside))] == ['images/0.png']
    assert len(viewer.open_source(str(names), follow_links=True)) == 3
    names.write_text(f'{outside}\n')
    with pytest.raises(ValueError, match='all 1 images of .* outside of it'):
        viewer.open_source(str(names), follow_links=False)
    with Image.open(tmp_path / 'images/0.png') as image:
        assert inside.read(0).shape == (image.height, image.width, 3)
