"""A folder of small images, tar files of chosen members, and a local object store."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    for name in ('COTAP_IMAGE_CACHE', 'COTAP_IMAGE_CACHE_GB'):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path):
    """22 files, one of which is no image and one of which is empty."""
    rng = np.random.default_rng(0)
    for i in range(20):
        parent = tmp_path / 'images' / f'part {i % 3}'
        parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(parent / f'{i}{"x" * 120 * (i == 7)}.png')
    (tmp_path / 'images' / 'größe.png').write_bytes(b'no image')
    (tmp_path / 'images' / 'leer.png').write_bytes(b'')
    return tmp_path / 'images'


def picture(value):
    content = io.BytesIO()
    Image.new('RGB', (8, 8), (value, 0, 0)).save(content, 'png')
    return content.getvalue()


@pytest.fixture
def write_tar():
    def write(path, members, form=tarfile.PAX_FORMAT, **changes):
        with tarfile.open(path, 'w', format=form) as archive:
            for name, data in members:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                for key, value in changes.get(name, {}).items():
                    setattr(member, key, value)
                archive.addfile(member, io.BytesIO(data))
        return path

    return write


@pytest.fixture(scope='session')
def store():
    """Address of a local stand-in of S3 with a bucket ``images``, and its server."""
    pytest.importorskip('s3fs', reason='s3fs is not installed: pip install s3fs')
    server = pytest.importorskip(
        'moto.server', reason='moto is not installed: pip install "moto[server]"'
    )
    with pytest.MonkeyPatch.context() as patch:
        running = server.ThreadedMotoServer('127.0.0.1', 0, verbose=False)
        running.start()
        host, port = running.get_host_and_port()
        for name, value in dict(
            AWS_ACCESS_KEY_ID='key',
            AWS_SECRET_ACCESS_KEY='secret',
            AWS_DEFAULT_REGION='us-east-1',
            AWS_ENDPOINT_URL=f'http://{host}:{port}',
            AWS_MAX_ATTEMPTS='1',
        ).items():
            patch.setenv(name, value)
        import fsspec

        system = fsspec.filesystem('s3', skip_instance_cache=True)
        system.mkdir('images')
        yield system
        running.stop()
