"""A missing file is replaced; reading waits for a missing folder."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cotap_mm.datasets import ImageList, NeighborPairs, branch_source, save_neighbors
from cotap_mm.datasets import read_with_retry as retrying
from cotap_mm.datasets.neighbors.features import extract_features
from cotap_mm.datasets.sources import packed as packed_images
from cotap_mm.datasets.sources.decoding import UnreachableImage
from cotap_mm.errors import UserError


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(retrying, '_PAUSES', (0.05, 0.1))
    folder = tmp_path / 'images'
    folder.mkdir()
    for index in range(10):
        Image.new('RGB', (40, 40), (index, 0, 0)).save(folder / f'{index}.png')
    names = ImageList(folder).names
    nearest = (np.arange(10)[:, None] + np.arange(1, 4)) % 10
    save_neighbors(tmp_path / 'neighbors.npz', names, nearest)

    def make(**options):
        return NeighborPairs(
            dict(type='ImageList', root=str(folder)),
            str(tmp_path / 'neighbors.npz'),
            num_neighbors=3,
            crops=dict(global_size=32, local_size=16),
            **options,
        )

    make.folder = folder
    return make


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    for module in (branch_source, retrying):
        monkeypatch.setattr(module, 'print_log', lambda text, **_: lines.append(text))
    return lines


def test_waits_until_the_folder_is_back(pairs, warnings):
    data, away = pairs(), pairs.folder.with_name('away')
    pairs.folder.rename(away)

    def bring_back():
        time.sleep(0.4)
        away.rename(pairs.folder)

    thread = threading.Thread(target=bring_back)
    thread.start()
    try:
        sample = data[3]
    finally:
        thread.join()
    assert sample['patch']['path'][0] == '3.png' and not data.branches['patch'].bad_images
    assert (
        len(warnings) >= 2 and 'none of the images is reachable; retrying in 0.05 s' in warnings[0]
    )
    assert 'retrying in 0.1 s' in warnings[1]


def test_progress_is_reported_while_it_waits(pairs, warnings, monkeypatch):
    """More often than the pauses, since the limit of LoaderWatch may be shorter."""
    now, signs, naps = [0.0], [], []
    monkeypatch.setattr(retrying, '_PAUSES', (30, 60))
    monkeypatch.setattr(retrying, 'time', SimpleNamespace(monotonic=lambda: now[0]))

    def sleep(seconds):
        naps.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(retrying, 'sleep', sleep)

    def read(index, is_large_enough):
        raise UnreachableImage('0.png')

    source = SimpleNamespace(read=read, is_reachable=lambda: False)
    with pytest.raises(UserError, match='unreachable for 9. s'):
        retrying.read_with_retry(
            source, 0, None, SimpleNamespace(alive=lambda: signs.append(now[0])), patience=80
        )
    assert max(naps) <= 1 and len(signs) == 90


def test_a_packed_file_with_a_stale_handle_is_unreachable(tmp_path, monkeypatch):
    packed = packed_images.PackedImages.__new__(packed_images.PackedImages)
    packed.root = tmp_path / 'x.lmdb'

    def stale(*_, **__):
        raise OSError(116, 'Stale file handle')

    monkeypatch.setattr(os, 'stat', stale)
    assert packed.is_reachable() is False


def test_an_empty_mount_point_does_not_count_as_bad_images(pairs, warnings):
    data, away = pairs(patience=0.3), pairs.folder.with_name('away')
    pairs.folder.rename(away)
    pairs.folder.mkdir()
    with pytest.raises(RuntimeError, match='unreachable for 0 s; mount their disk and resume'):
        data[3]
    assert not data.branches['patch'].bad_images


def test_one_missing_file_is_replaced_at_once(pairs, warnings):
    data = pairs()
    (pairs.folder / '3.png').unlink()
    assert data[3]['patch']['path'][0] != '3.png'
    assert data.branches['patch'].bad_images == ['3.png']
    assert len(warnings) == 1 and warnings[0].startswith('cannot decode')


def test_names_of_images_being_read(pairs, monkeypatch):
    data, seen = pairs(), []
    read = ImageList.read

    def record(self, index, is_large_enough=None):
        seen.append(data.being_read)
        return read(self, index, is_large_enough)

    monkeypatch.setattr(ImageList, 'read', record)
    data[4]
    assert seen[0] == ['4.png'] and data.being_read == []


def test_the_search_for_neighbors_waits_too(pairs, warnings, tmp_path):
    """Images that are temporarily unreachable do not count as damaged."""
    source, away = ImageList(pairs.folder), pairs.folder.with_name('away')

    class Encoder:
        identity, image_size, device = 'means', 8, 'cpu'

        def __call__(self, images):
            return images.mean((2, 3)) + torch.tensor([3.0, 0, 0])

    expected = extract_features(source, Encoder(), tmp_path / 'a', num_workers=0)[:]
    read, calls = ImageList.read, []

    def lose_the_folder(self, index, is_large_enough=None):
        calls.append(index)
        if len(calls) == 3:
            pairs.folder.rename(away)
        elif len(calls) == 6:
            away.rename(pairs.folder)
        return read(self, index, is_large_enough)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageList, 'read', lose_the_folder)
        found = extract_features(source, Encoder(), tmp_path / 'b', num_workers=0)[:]
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))
    assert found.any(1).all() and 'retrying in' in warnings[0]
