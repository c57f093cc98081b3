"""Changed images are detected by size and time, or by content on request."""

from __future__ import annotations

import hashlib
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from cotap_mm import signals
from cotap_mm.datasets import ImageList, PackedImages, ToyScenes, pack_images, save_neighbors
from cotap_mm.datasets.sources.files import ImageFiles
from cotap_mm.datasets.sources.fingerprints import fingerprint_of
from cotap_mm.engine.auto_neighbors import _digest_of_names, warn_of_changed_images


@pytest.fixture
def folder(tmp_path):
    for name in 'abc':
        save(tmp_path / 'images' / f'{name}.bmp', ord(name))
    return tmp_path / 'images'


def save(path, seed):
    """Save an image; the file size does not depend on the content."""
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path)


def replace(path):
    """Change the pixels but neither file size nor modification time."""
    status = path.stat()
    save(path, 0)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size


def fingerprint(folder):
    return fingerprint_of(ImageList(folder))


@pytest.mark.parametrize(
    'value, is_detected', [('1', True), ('0', False), ('', False), (None, False)]
)
def test_a_replaced_image_of_the_same_size_and_time(folder, monkeypatch, value, is_detected):
    if value is not None:
        monkeypatch.setenv('COTAP_HASH_IMAGES', value)
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    replace(folder / 'b.bmp')
    assert (fingerprint(folder) != before) == is_detected


def test_contents_do_not_depend_on_times_and_folders(folder, tmp_path, monkeypatch):
    times = fingerprint(folder)
    monkeypatch.setenv('COTAP_HASH_IMAGES', '1')
    contents = fingerprint(folder)
    assert contents != times
    shutil.copytree(folder, tmp_path / 'copy', copy_function=shutil.copyfile)
    os.utime(tmp_path / 'copy' / 'a.bmp', (1, 1))
    assert fingerprint(tmp_path / 'copy') == contents
    (tmp_path / 'copy' / 'a.bmp').rename(tmp_path / 'copy' / 'd.bmp')
    assert fingerprint(tmp_path / 'copy') != contents
    pytest.importorskip('lmdb')
    pack_images(ImageList(folder), tmp_path / 'packed.lmdb')
    assert fingerprint_of(PackedImages(tmp_path / 'packed.lmdb')) == contents


def test_digests_are_those_of_earlier_versions(folder, tmp_path):
    """Which feature files, neighbor files and checkpoints on the disks of users contain."""
    for name in ('größe.jpg', 'clich\udce9.jpg', 'x/y.gif'):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b'12345')
    names = ['a.bmp', 'b.bmp', 'c.bmp', 'clich\udce9.jpg', 'größe.jpg', 'x/y.gif']
    encoded = [name.encode('utf-8', 'surrogateescape') for name in names]
    text = b''
    for name in names:
        status = (folder / name).stat()
        facts = f'\0{status.st_size} {status.st_mtime_ns}\n'
        text += name.encode('utf-8', 'surrogateescape') + facts.encode()
    source = ImageList(folder)
    assert fingerprint_of(source) == hashlib.sha256(text).hexdigest()
    files = ImageFiles([folder / 'a.bmp', folder / 'nowhere.jpg'])
    status = (folder / 'a.bmp').stat()
    text = f'{folder}/a.bmp\0{status.st_size} {status.st_mtime_ns}\n{folder}/nowhere.jpg\0missing\n'
    assert fingerprint_of(files) == hashlib.sha256(text.encode()).hexdigest()
    before = hashlib.sha256(b'\n'.join([b'vit', b'7', *encoded])).hexdigest()[:12]
    assert _digest_of_names('vit', 7, source.names) == before
    assert fingerprint_of(Named(names)) == hashlib.sha256(b'\n'.join(encoded)).hexdigest()
    pytest.importorskip('lmdb')
    pack_images(source, tmp_path / 'packed.lmdb')
    status = (tmp_path / 'packed.lmdb').stat()
    text = f'{status.st_size} {status.st_mtime_ns}\n'.encode() + b'\0'.join(encoded)
    packed = PackedImages(tmp_path / 'packed.lmdb')
    assert fingerprint_of(packed) == hashlib.sha256(text).hexdigest()


class Named:
    """A source that has names and nothing else."""

    def __init__(self, names):
        self.listed = names

    def __len__(self):
        return len(self.listed)

    def name(self, index):
        return self.listed[index]


def test_the_value_range_is_part_of_the_fingerprint(folder, monkeypatch):
    monkeypatch.setenv('COTAP_HASH_IMAGES', '1')
    assert fingerprint_of(ImageList(folder, value_range=(0, 9))) != fingerprint(folder)


def test_sources_without_files_and_unreadable_files(folder, monkeypatch):
    scenes = ToyScenes('memory', 2, image_size=32)
    before = fingerprint_of(scenes)
    monkeypatch.setenv('COTAP_HASH_IMAGES', '1')
    assert fingerprint_of(ToyScenes('memory', 2, image_size=32)) == before
    source = ImageList(folder)
    complete = fingerprint(folder)
    (folder / 'a.bmp').unlink()
    assert fingerprint_of(source) != complete


def test_a_signal_stops_hashing(folder, monkeypatch):
    monkeypatch.setenv('COTAP_HASH_IMAGES', '1')
    monkeypatch.setattr(signals, 'received', lambda: 'SIGTERM')
    with pytest.raises(signals.Stopped):
        fingerprint(folder)


@pytest.mark.parametrize('hashed', ['0', '1'])
def test_a_resumed_run_compares_fingerprints_of_the_stored_kind(
    folder, tmp_path, monkeypatch, log, hashed
):
    """The environment variable at resume time does not matter."""
    monkeypatch.setenv('COTAP_HASH_IMAGES', hashed)
    path = tmp_path / f'neighbors_patch_{"0" * 12}.npz'
    save_neighbors(
        path,
        ['a.bmp', 'b.bmp', 'c.bmp'],
        np.array([[1], [2], [0]]),
        dict(images=fingerprint(folder)),
    )
    monkeypatch.setenv('COTAP_HASH_IMAGES', str(1 - int(hashed)))
    warn_of_changed_images(path, ImageList(folder))
    assert 'images have changed' not in log.text
    os.utime(folder / 'a.bmp', (1, 1))
    warn_of_changed_images(path, ImageList(folder))
    assert ('images have changed' in log.text) == (hashed == '0')
    save(folder / 'a.bmp', 0)
    warn_of_changed_images(path, ImageList(folder))
    assert 'images have changed' in log.text
