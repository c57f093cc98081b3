"""Files are read without running code from them; errors are one sentence."""

from __future__ import annotations

import argparse
import http.server
import threading

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from cotap_mm.models import DINOViT
from cotap_mm.weights import load_pretrained
from cotap_mm.weights.reading import cached_path, read_checkpoint
from tests.helpers.foreign_weights import small_vit, timm_names


class Bomb:
    """Creates a folder when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        import os

        return os.mkdir, (self.target,)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'vit.pth'
    torch.save(timm_names(), path)
    return path


@pytest.mark.parametrize('legacy', [False, True])
def test_code_in_a_file_runs_only_with_trust(tmp_path, legacy):
    path, mark = tmp_path / 'bomb.pth', tmp_path / 'it_ran'
    torch.save(
        dict(state_dict=timm_names(), extra=Bomb(str(mark))),
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(ValueError, match='cannot be read safely.*mkdir.*run code.*trust=True'):
        load_pretrained(small_vit(DINOViT), path)
    assert not mark.exists()
    load_pretrained(small_vit(DINOViT), path, trust=True)
    assert mark.exists()


def test_plain_objects_of_training_files_need_no_trust(tmp_path):
    path = tmp_path / 'checkpoint.pth'
    torch.save(
        dict(
            teacher=timm_names(),
            args=argparse.Namespace(lr=0.1),
            loss=np.float64(1),
            message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1]))),
        ),
        path,
    )
    assert read_checkpoint(path)['args'].lr == 0.1
    assert not load_pretrained(small_vit(DINOViT), path).missing


def test_software_that_is_not_installed_is_named(tmp_path):
    path = tmp_path / 'checkpoint.pth'
    torch.save(
        dict(state_dict=timm_names(), extra=Bomb('')), path, _use_new_zipfile_serialization=False
    )
    path.write_bytes(path.read_bytes().replace(b'posix\nmkdir', b'nixpo\nmkdir'))
    with pytest.raises(ImportError, match='not installed here.*nixpo'):
        read_checkpoint(path, trust=True)


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('trust', [False, True])
def test_truncated_file(tmp_path, legacy, trust):
    path = tmp_path / 'cut.pth'
    torch.save(timm_names(), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match='cut.pth.*damaged.*download it again'):
        read_checkpoint(path, trust=trust)


@pytest.mark.parametrize('content', [b'', b'<html>404</html>', b'\x80\x02abcdefgh'])
def test_file_that_is_not_a_checkpoint(tmp_path, content):
    path = tmp_path / 'page.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='page.pth is damaged or not a checkpoint'):
        read_checkpoint(path)


def test_content_other_than_a_state_dict(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='must contain a dict of tensors, got list'):
        read_checkpoint(tmp_path / 'list.pth')
    with pytest.raises(FileNotFoundError, match='nowhere.pth is not a file; give the path'):
        read_checkpoint('nowhere.pth')
    with pytest.raises(TypeError, match='a path, a URL or a state dict, got int'):
        read_checkpoint(3)


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip('safetensors.torch')
    path = tmp_path / 'model.safetensors'
    safetensors.save_file(timm_names(), str(path))
    assert not load_pretrained(small_vit(DINOViT), path).missing
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match='model.safetensors is damaged'):
        read_checkpoint(path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    folder = tmp_path / 'hub'
    monkeypatch.setattr('cotap_mm.weights.reading.get_dir', lambda: str(folder))
    return folder


@pytest.fixture
def server(tmp_path):
    """Run a local web server; return its address and folder."""
    folder = tmp_path / 'web'
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            """Log nothing."""

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{web.server_port}', folder
        web.shutdown()


def test_url_is_downloaded_once_and_cached_by_its_full_address(hub, server):
    address, folder = server
    for seed in (1, 2):  # two files with the same name, as in iBOT
        (folder / str(seed)).mkdir()
        torch.save(timm_names(seed), folder / str(seed) / 'checkpoint_teacher.pth')
    for seed in (1, 2):
        url = f'{address}/{seed}/checkpoint_teacher.pth'
        model = small_vit(DINOViT)
        load_pretrained(model, url)
        assert torch.equal(model.cls_token, timm_names(seed)['cls_token'])
        (folder / str(seed) / 'checkpoint_teacher.pth').unlink()
        load_pretrained(model, url)  # from the cache
    assert len(list((hub / 'checkpoints').iterdir())) == 2


def test_failed_download(hub, server):
    url = server[0] + '/missing.pth'
    with pytest.raises(FileNotFoundError) as caught:
        load_pretrained(small_vit(DINOViT), url)
    for part in (
        f'cannot download {url}',
        '404',
        'Download it on a machine with internet access',
        '--init FILE',
        str(cached_path(url)),
    ):
        assert part in str(caught.value)
    assert not cached_path(url).exists()


def test_path_may_be_str_or_path(checkpoint):
    assert read_checkpoint(str(checkpoint)).keys() == read_checkpoint(checkpoint).keys()
