"""Reject or skip special files, huge files, other formats, archives and malformed lists."""

from __future__ import annotations

import io
import json
import os
import sys
import types
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image, features

from cotap_mm.datasets import BadImage, ImageList, NeighborPairs, read_image
from cotap_mm.datasets.sources import formats as image_formats
from cotap_mm.datasets.sources.decoding import decode_image
from cotap_mm.encoders.images import to_pixels
from tests.helpers.faults import time_limit


def encoded(kind, mode='RGB', side=1500, **options):
    buffer = io.BytesIO()
    Image.linear_gradient('L').resize((side, side)).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize('read', [read_image, to_pixels])
@pytest.mark.parametrize('kind', ['pipe', 'link to a pipe', 'device', 'sparse', 'folder'])
def test_special_and_huge_files_are_bad_images_at_once(tmp_path, kind, read):
    path = tmp_path / 'photo.jpg'
    if 'pipe' in kind:
        os.mkfifo(tmp_path / 'pipe')
        os.symlink(tmp_path / 'pipe', path) if 'link' in kind else os.rename(
            tmp_path / 'pipe', path
        )
    elif kind == 'device':
        os.symlink('/dev/zero', path)
    elif kind == 'folder':
        path.mkdir()
    else:
        with open(path, 'wb') as file:
            file.truncate(30 << 30)
    with time_limit(30), pytest.raises(BadImage, match=r'photo.jpg (must be a regular|has 32,212)'):
        read(path)


def test_training_replaces_a_pipe(photos, ring):
    os.mkfifo(photos / 'pipe.jpg')
    names = ImageList(photos).names
    data = NeighborPairs(
        dict(type='ImageList', root=str(photos)),
        ring(names),
        num_neighbors=2,
        crops=dict(global_size=32, local_size=16),
    )
    with time_limit(60):
        paths = {name for index in range(len(names)) for name in data[index]['patch']['path']}
    assert data.branches['patch'].bad_images == ['pipe.jpg'] and 'pipe.jpg' not in paths


@pytest.mark.parametrize('name', ['list.txt', 'coco.json', 'list'])
@pytest.mark.parametrize('kind', ['pipe', 'sparse'])
def test_lists_that_are_pipes_or_huge(photos, tmp_path, name, kind):
    path = tmp_path / name
    if kind == 'pipe':
        os.mkfifo(path)
    else:
        with open(path, 'wb') as file:
            file.truncate(30 << 30)
    for arguments in ((path,), (photos, path)):
        with time_limit(30), pytest.raises(ValueError, match=f'{name} (must be|has 32,212)'):
            ImageList(*arguments)


def peak_growth(work):
    """Peak memory growth in bytes of a child process that calls ``work``."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            with open('/proc/self/clear_refs', 'w') as file:
                file.write('5')
            before = resident('VmRSS')
            work()
            os.write(write, str(resident('VmHWM') - before).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as file:
        growth = file.read()
    assert os.waitpid(child, 0)[1] == 0
    return int(growth)


def resident(key):
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(key))


DEEP = np.arange(1500 * 1500, dtype=np.uint16).reshape(1500, 1500) % 4001


@pytest.mark.skipif(not os.path.exists('/proc/self/clear_refs'), reason='Linux only')
@pytest.mark.parametrize(
    'make',
    [
        lambda: encoded('PNG', compress_level=0),
        lambda: encoded('PNG', 'P', compress_level=0),
        lambda: encoded('JPEG', progressive=True, subsampling=0),
        lambda: encoded('JPEG', 'CMYK'),
        lambda: encoded('TIFF', 'CMYK', compression='tiff_lzw'),
        lambda: encoded('GIF', 'P'),
        lambda: encoded('TIFF', 'F'),
        lambda: encoded('TIFF', 'I'),
        lambda: encoded('WEBP', lossless=True, method=0),
        lambda: cv2.imencode('.png', DEEP)[1].tobytes(),
        lambda: cv2.imencode('.png', np.dstack([DEEP] * 4))[1].tobytes(),
        lambda: cv2.imencode('.tiff', np.dstack([DEEP] * 3))[1].tobytes(),
    ],
)
def test_memory_of_a_read_is_bounded(make):
    """20 bytes per pixel, the file itself, and 40 MB that do not depend on the image."""
    data = make()
    grown = peak_growth(lambda: decode_image(data, None, 'a'))
    assert grown < 20 * 1500**2 + len(data) + 40 * 2**20


@pytest.mark.parametrize('kind', ['png', 'tiff', 'gif', 'bmp', 'webp', 'jp2'])
def test_bombs_of_all_formats(kind, monkeypatch):
    """Rejected by the size in the header, without decoding."""
    buffer = io.BytesIO()
    Image.new('L', (10, 10)).save(buffer, {'jp2': 'JPEG2000'}.get(kind, kind.upper()))
    monkeypatch.setattr('cotap_mm.datasets.sources.decoding.MAX_IMAGE_PIXELS', 99)
    monkeypatch.setattr('cotap_mm.datasets.sources.decoding._pixels', None)
    with pytest.raises(BadImage, match='a: ValueError: 10 x 10 pixels exceed the limit of 99'):
        decode_image(buffer.getvalue(), None, 'a')


def test_postscript_is_not_run(tmp_path):
    path = tmp_path / 'a.jpg'
    path.write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n')
    with pytest.raises(BadImage, match='a.jpg: not an image, or an unsupported format'):
        read_image(path)
    assert 'EPS' not in image_formats.decodable_formats()


@pytest.mark.parametrize('suffix', ['gif', 'avif', 'jp2', 'pgm', 'jfif', 'dib', 'apng'])
def test_formats_that_are_read(tmp_path, suffix):
    if suffix == 'avif' and not features.check('avif'):
        pytest.skip('this Pillow does not support AVIF')
    kind = dict(jp2='JPEG2000', jfif='JPEG', pgm='PPM', apng='PNG').get(suffix, suffix.upper())
    first = Image.new('L', (20, 30), 90)
    more = (
        dict(save_all=True, append_images=[Image.new('L', (20, 30), 200)])
        if suffix in ('gif', 'apng')
        else {}
    )
    first.save(tmp_path / f'a.{suffix.upper()}', kind, **more)
    source = ImageList(tmp_path)
    assert source.names == [f'a.{suffix.upper()}']
    assert np.abs(source.read(0).astype(int) - 90).max() <= 2  # the first of several images


def test_skipped_files_are_counted(photos, log):
    for name in (
        'a.heic',
        'b.HEIC',
        'c.cr2',
        'd.svg',
        'clip.mp4',
        'old.zip',
        'notes.txt',
        'Thumbs.db',
        'more/labels.json',
        '.hidden.nef',
    ):
        (photos / name).write_bytes(b'x')
    log.set_level('DEBUG')
    assert len(ImageList(photos)) == 6 + 2 * ('.heic' in image_formats.IMAGE_SUFFIXES)
    loud = [record.getMessage() for record in log.records if record.levelname == 'WARNING']
    assert len(loud) == 1 and '1 .cr2' in loud[0] and '1 .svg' in loud[0]
    assert '1 .mp4 (extract their frames' in loud[0] and '1 .zip (archives are not' in loud[0]
    assert 'convert them to JPEG' in loud[0] and '.txt' not in loud[0] and '.nef' not in loud[0]
    if '.heic' not in image_formats.IMAGE_SUFFIXES:
        assert (
            '2 .heic (pip install pillow-heif)' in loud[0]
            and 'skipped 6 unsupported files' in loud[0]
        )


def test_junk_alone_is_not_a_warning(photos, log):
    for name in ('notes.txt', 'Thumbs.db', 'labels.json', 'README'):
        (photos / name).write_bytes(b'x')
    ImageList(photos)
    assert [record.levelname for record in log.records] in ([], ['DEBUG'])


def test_the_error_for_a_folder_without_images_lists_its_files(tmp_path):
    for name in ('train-0.tar', 'train-1.tar', 'a.parquet', 'x.bin'):
        (tmp_path / name).write_bytes(b'x')
    with pytest.raises(
        FileNotFoundError, match=r'2 \.tar \(archives are not supported, unpack them\)'
    ):
        ImageList(tmp_path)


def test_heif_through_its_plugin(tmp_path, monkeypatch):
    """With a fake pillow-heif: its opener is registered, and its suffixes are images."""
    calls = []
    plugin = types.SimpleNamespace(register_heif_opener=lambda: calls.append(1))
    monkeypatch.setitem(sys.modules, 'pillow_heif', plugin)
    scope = {'__name__': 'cotap_mm.datasets.again', '__annotations__': {}}
    with open(image_formats.__file__) as file:
        exec(compile(file.read(), image_formats.__file__, 'exec'), scope)
    assert calls == [1] and {'.heic', '.heif', '.hif'} <= set(scope['IMAGE_SUFFIXES'])
    assert scope['describe_skipped'](['a.heic'])[0] == ''


def archive(path):
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('a.jpg', b'x')


@pytest.mark.parametrize(
    'name, content',
    [
        ('few.zip', None),
        ('few', None),
        ('few.tar.gz', b'\x1f\x8b\x08' + bytes(9)),
        ('few.tar', b'a.jpg' + bytes(600)),
        ('few.7z', b"7z\xbc\xaf'\x1c"),
        ('few.rar', b'Rar!\x1a'),
        ('few.tar.xz', b'\xfd7zXZ\0'),
        ('few.tar.zst', b'\x28\xb5\x2f\xfd'),
    ],
)
def test_archives(tmp_path, name, content):
    archive(tmp_path / name) if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f'{name} is an archive, and of archives only'):
        ImageList(tmp_path / name)


@pytest.mark.parametrize(
    'line',
    ['a.png 3', 'a.png\t3', 'a.png,3', 'a.png;3', '"a.png" 3', 'a.png 0 0 10 10', "'a.png',cat"],
)
def test_lists_with_labels(photos, tmp_path, line):
    path = tmp_path / 'train.txt'
    path.write_text(f'{line}\n')
    with pytest.raises(ValueError, match='train.txt must have one image name per line'):
        ImageList(photos, path)


def test_folders_that_cannot_be_listed_are_logged(photos, log, monkeypatch):
    scandir = os.scandir

    def deny(folder):
        if str(folder).endswith('closed'):
            raise PermissionError(13, 'Permission denied', str(folder))
        return scandir(folder)

    names = ImageList(photos).names
    (photos / 'closed').mkdir()
    (photos / 'closed' / 'z.png').touch()
    monkeypatch.setattr('cotap_mm.datasets.sources.folders.scan.os.scandir', deny)
    assert ImageList(photos).names == names
    assert 'skipped 1 folders that cannot be listed' in log.text and 'closed (Perm' in log.text


def test_a_list_for_another_folder(photos, tmp_path):
    path = tmp_path / 'train.txt'
    path.write_text('x.png\n')
    with pytest.raises(FileNotFoundError, match='the list with --ann-file'):
        ImageList(photos, path)


@pytest.mark.parametrize(
    'encoding, newline',
    [('utf-8', '\n'), ('utf-8-sig', '\r\n'), ('utf-16', '\r\n'), ('utf-8', '\r')],
)
def test_lists_from_other_operating_systems(photos, tmp_path, encoding, newline):
    Image.new('RGB', (4, 4)).save(photos / 'größe.png')
    path = tmp_path / 'train.txt'
    path.write_bytes(newline.join(['größe.png', 'a.png', '']).encode(encoding))
    assert ImageList(photos, path).names == ['größe.png', 'a.png']


@pytest.mark.parametrize('name', ['\ud800.png', 'a\0.png'])
def test_invalid_file_names(photos, tmp_path, name):
    path = tmp_path / 'coco.json'
    path.write_text(json.dumps(dict(images=[dict(file_name='a.png'), dict(file_name=name)])))
    with pytest.raises(ValueError, match='coco.json contains .*, which is not a valid file name'):
        ImageList(photos, path)


def test_deeply_nested_json(photos, tmp_path):
    path = tmp_path / 'coco.json'
    path.write_text('[' * 200_000)
    with pytest.raises(ValueError, match='coco.json must be a COCO json'):
        ImageList(photos, path)
