"""The list of a large folder is kept, checked and renewed."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from pathlib import Path

import pytest

from cotap_mm.datasets import ImageList
from cotap_mm.datasets.sources.folders import index_file, one_scan, scan
from cotap_mm.datasets.sources.folders.index_file import read_index, write_index
from cotap_mm.datasets.sources.folders.scan import scan_folder
from cotap_mm.datasets.sources.listing import find_images
from cotap_mm.datasets.sources.names import Names
from cotap_mm.errors import UserError

FILES = ['b.jpg', 'a.png', 'b/x.jpg', 'b/y.PNG', 'b-c/z.jpg', 'b.d/z.jpg', 'b/deep/e/f.gif']


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Folder of 7 images that counts as large and has not been changed for a long time."""
    monkeypatch.setattr(index_file, 'MIN_IMAGES', 7)
    monkeypatch.setattr(index_file, '_SETTLED', -60.0)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('COTAP_INDEX', raising=False)
    for name in [*FILES, 'notes.txt', '.hidden.png', 'b/archive.zip']:
        path = tmp_path / 'data' / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / 'data' / 'images'


@pytest.fixture
def scans(monkeypatch):
    """Names of the folders that are listed."""
    listed, list_folder = [], scan._Lister.list_folder
    monkeypatch.setattr(
        scan._Lister,
        'list_folder',
        lambda self, folder: listed.append(folder) or list_folder(self, folder),
    )
    return listed


def images_in(folder):
    return find_images(folder).names


def index_of(folder):
    return folder.parent / f'.{folder.name}.cotap_mm_index'


def test_names_are_sorted_like_strings(folder):
    found = scan_folder(folder)
    assert found.names == sorted(FILES) and found.is_repeatable and not found.unlisted
    assert found.skipped == {'.txt': 1, '.zip': 1}
    assert sorted(found.folders) == ['', 'b-c/', 'b.d/', 'b/', 'b/deep/', 'b/deep/e/']
    shutil.rmtree(folder / 'b')
    assert scan_folder(folder).names == ['a.png', 'b-c/z.jpg', 'b.d/z.jpg', 'b.jpg']
    flat = scan_folder(folder / 'b-c')
    assert flat.names == ['z.jpg'] and flat.folders == ['']
    assert len(scan_folder(folder.parent / 'nowhere').names) == 0


def test_a_folder_is_listed_once(folder, scans, log):
    names = images_in(folder)
    assert names == sorted(FILES) and len(scans) == 6
    assert index_of(folder).is_file() and 'COTAP_INDEX=0' in log.text
    assert sorted(os.listdir(folder.parent)) == [index_of(folder).name, folder.name]
    log.clear()
    again = ImageList(folder).names
    assert again == names and len(scans) == 6
    assert '1 .zip (archives are not supported' in log.text  # as after a scan


@pytest.mark.parametrize(
    'change',
    [
        lambda folder: (folder / 'b' / 'deep' / 'new.jpg').touch(),
        lambda folder: (folder / 'b-c' / 'z.jpg').unlink(),
        lambda folder: (folder / 'b' / 'x.jpg').rename(folder / 'b' / 'w.jpg'),
        lambda folder: (folder / 'empty').mkdir(),
        lambda folder: shutil.rmtree(folder / 'b.d'),
        lambda folder: (folder / 'b').rename(folder / 'c'),
    ],
    ids=['added', 'removed', 'renamed', 'new folder', 'removed folder', 'renamed folder'],
)
def test_changes_are_noticed(folder, scans, change):
    images_in(folder)
    change(folder)
    scans.clear()
    found = images_in(folder)
    assert scans and found == scan_folder(folder).names
    scans.clear()
    assert images_in(folder) == found
    assert not scans or len(found) < index_file.MIN_IMAGES


def test_a_change_with_the_same_modification_time_is_noticed(folder, scans):
    """Such as one that a program undoes after it has added a file, to preserve times."""
    images_in(folder)
    before = folder.stat()
    (folder / 'new.jpg').touch()
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert folder.stat().st_mtime_ns == before.st_mtime_ns
    assert 'new.jpg' in images_in(folder)


def test_changed_images_do_not_renew_it(folder, scans):
    images_in(folder)
    scans.clear()
    (folder / 'a.png').write_bytes(b'other')
    assert images_in(folder) == sorted(FILES) and not scans


def test_a_link_to_another_folder_is_followed(folder, tmp_path, scans):
    for name in 'vw':
        (tmp_path / name).mkdir()
        (tmp_path / name / f'{name}.jpg').touch()
    os.symlink('v', tmp_path / 'current')
    os.symlink(tmp_path / 'current', folder / 'link')
    assert 'link/v.jpg' in images_in(folder)
    os.unlink(tmp_path / 'current')
    os.symlink('w', tmp_path / 'current')  # no folder below the images has changed
    found = images_in(folder)
    assert 'link/w.jpg' in found and 'link/v.jpg' not in found


def test_links_that_are_not_followed_are_kept(folder, scans):
    os.symlink('b', folder / 'c')
    os.symlink('..', folder / 'b' / 'up')
    assert list(ImageList(folder).links) == ['b/up', 'c']
    scans.clear()
    assert list(ImageList(folder).links) == ['b/up', 'c'] and not scans


def test_a_folder_that_has_just_changed_is_not_indexed(folder, scans, monkeypatch):
    """A second change might get the same time."""
    monkeypatch.setattr(index_file, '_SETTLED', 2.0)
    images_in(folder)
    assert not index_of(folder).exists() and not list(folder.parent.glob('unfinished*'))
    monkeypatch.setattr(index_file, '_SETTLED', -60.0)
    # A file server whose clock is slow: its "now" is long ago.
    stat = os.stat

    def late(path, *args, **options):
        status = stat(path, *args, **options)
        if 'unfinished-' not in str(path):
            return status
        return os.stat_result([*status[:7], *(time - 3600 for time in status[7:10])])

    monkeypatch.setattr(index_file.os, 'stat', late)
    images_in(folder)
    assert not index_of(folder).exists() and not list(folder.parent.glob('unfinished*'))
    monkeypatch.setattr(index_file.os, 'stat', stat)
    images_in(folder)
    assert index_of(folder).exists()


@pytest.mark.parametrize('reason', ['small', 'turned off', 'broken link', 'denied'])
def test_no_index(folder, monkeypatch, reason):
    if reason == 'small':
        monkeypatch.setattr(index_file, 'MIN_IMAGES', 8)
    elif reason == 'turned off':
        monkeypatch.setenv('COTAP_INDEX', '0')
    elif reason == 'broken link':
        os.symlink('/nowhere/at/all', folder / 'disk')  # perhaps mounted later
    else:
        scandir = os.scandir

        def deny(path):
            if str(path).endswith('b-c'):
                raise PermissionError(13, 'Permission denied', str(path))
            return scandir(path)

        monkeypatch.setattr(scan.os, 'scandir', deny)
    assert set(images_in(folder)) >= set(FILES) - {'b-c/z.jpg'}
    cache = folder.parents[1] / 'cache'
    assert not index_of(folder).exists() and not any(map(os.path.isfile, cache.rglob('*')))


def test_it_can_be_turned_off_later(folder, scans, monkeypatch):
    images_in(folder)
    scans.clear()
    monkeypatch.setenv('COTAP_INDEX', '0')
    assert images_in(folder) == sorted(FILES) and scans


def test_other_image_formats(folder, scans, monkeypatch):
    images_in(folder)
    for module in (index_file, scan):
        monkeypatch.setattr(module, 'IMAGE_SUFFIXES', ('.gif', '.jpg'))
    assert images_in(folder) == [name for name in sorted(FILES) if name[-3:] in ('gif', 'jpg')]


def test_the_cache_folder_of_the_user(folder, scans, tmp_path, monkeypatch):
    write = index_file._write

    def only_in_cache(path, found):
        if 'cache' not in path.parts:
            raise PermissionError(13, 'Permission denied', str(path))
        write(path, found)

    monkeypatch.setattr(index_file, '_write', only_in_cache)
    images_in(folder)
    [kept] = (tmp_path / 'cache').rglob('*.index')
    assert not index_of(folder).exists() and kept.parent.parts[-2:] == ('cotap_mm', 'indexes')
    scans.clear()
    os.symlink(folder, tmp_path / 'link')  # the same folder
    assert images_in(tmp_path / 'link') == sorted(FILES) and not scans
    shutil.rmtree(tmp_path / 'cache')
    (tmp_path / 'cache').touch()  # nothing can be written anywhere
    assert images_in(folder) == sorted(FILES)


def test_damage_is_repaired(folder, scans):
    names = images_in(folder)
    path = index_of(folder)
    good = path.read_bytes()
    cases = [b'', b'x', good[:20], good[:-1], good + b'\0', good[:40] + b'\xff' + good[41:]]
    cases += [bytes(len(good)), good[:16] + b'\xff' * 16 + good[32:]]
    cases += [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(0, len(good), 61)]
    padding = 0
    for bad in cases:
        path.write_bytes(bad)
        scans.clear()
        assert images_in(folder) == names
        padding += not scans  # of the sections, up to 7 bytes each
        path.write_bytes(good)
    assert padding <= 1
    path.unlink()
    path.mkdir()  # cannot even be replaced
    assert images_in(folder) == names
    assert list((folder.parents[1] / 'cache').rglob('*.index'))


def test_the_index_of_a_copied_folder_is_not_used(folder, tmp_path, scans):
    """An archive could contain any index, but not the times of changes on this disk."""
    images_in(folder)
    shutil.copytree(folder.parent, tmp_path / 'copy')  # with modification times
    copy = tmp_path / 'copy' / folder.name
    assert copy.stat().st_mtime_ns == folder.stat().st_mtime_ns and index_of(copy).exists()
    (folder / 'a.png').unlink()
    scans.clear()
    assert images_in(copy) == sorted(FILES) and scans


@pytest.mark.parametrize('is_mapped', [False, True])
def test_large_indexes_are_mapped_and_not_copied_to_other_processes(folder, monkeypatch, is_mapped):
    if is_mapped:
        monkeypatch.setattr(index_file, 'MAPPED', 0)
    images_in(folder)
    names = images_in(folder)
    pickled = pickle.dumps(names)
    assert (b'b-c/z.jpg' not in pickled) == is_mapped
    assert pickle.loads(pickled) == names == sorted(FILES)
    (folder / 'new.jpg').touch()
    if is_mapped:
        assert pickle.loads(pickled) == sorted(FILES)  # as the process that has sent it
    images_in(folder)
    assert names == sorted(FILES)  # although the file has been replaced
    if is_mapped:
        with pytest.raises(ValueError, match='replaced since it was opened'):
            pickle.loads(pickled)


@pytest.mark.parametrize('is_mapped', [False, True])
def test_what_a_start_asks_of_the_names_is_in_the_index(folder, monkeypatch, is_mapped):
    if is_mapped:
        monkeypatch.setattr(index_file, 'MAPPED', 0)
    scanned = ImageList(folder)
    chosen, digest = scanned.some_deep(64), Names(FILES := sorted(scanned.names)).digest()
    assert [FILES[i] for i in chosen] == ['a.png', 'b/y.PNG']
    monkeypatch.setattr('cotap_mm.datasets.sources.names.end_with', None)
    monkeypatch.setattr(Names, 'joined', None)
    again = ImageList(folder)
    copy = pickle.loads(pickle.dumps(again.names))
    assert again.some_deep(64) == chosen and again.names.digest() == copy.digest() == digest


def test_damaged_names_of_a_mapped_index(folder, scans, monkeypatch):
    """Some names are checked at the start, the others when they are used."""
    monkeypatch.setattr(index_file, 'MAPPED', 0)
    images_in(folder)
    path = index_of(folder)
    good = path.read_bytes()
    size = len(b'\0'.join(map(os.fsencode, sorted(FILES))))
    first, after = good.index(b'a.png\0b'), len(good) - 4 * (len(FILES) + 1)
    after -= -4 * (len(FILES) + 1) % 8
    assert good[first : first + size].split(b'\0') == [os.fsencode(name) for name in sorted(FILES)]
    for start, stop in ((first, first + size), (after, len(good)), (first + 6, first + 7)):
        path.write_bytes(good[:start] + bytes(stop - start) + good[stop:])
        scans.clear()
        assert images_in(folder) == sorted(FILES) and scans  # written again
    good = path.read_bytes()
    monkeypatch.setattr(index_file, '_CHECKED', 1)  # the first one
    path.write_bytes(good[: after + 8] + bytes(8) + good[after + 16 :])
    with pytest.raises(UserError, match='name 1 of 7 goes .* delete the index, or set COTAP_INDEX'):
        images_in(folder)[1]


def test_processes_at_the_same_time(folder):
    """Each writes the same file atomically."""
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            status = 1
            try:
                status = int(any(images_in(folder) != sorted(FILES) for _ in range(20)))
                index_of(folder).unlink(missing_ok=True)
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert not list(folder.parent.glob('unfinished*'))


@pytest.mark.parametrize('end', ['written', 'killed', 'not kept'])
def test_one_process_lists_and_the_others_wait(folder, scans, log, monkeypatch, tmp_path, end):
    """The others list the folder only if the first one has left no index."""
    listing, waited = tmp_path / 'listing', tmp_path / 'waited'
    monkeypatch.setenv('LOCAL_RANK', '1')  # whoever is first
    child = os.fork()
    if not child:

        def write(*args, **options):
            listing.touch()
            while not waited.exists():
                time.sleep(0.01)
            if end == 'killed':
                os._exit(0)
            return write_index(*args, **options) if end == 'written' else None

        one_scan.write_index = write
        os._exit(int(images_in(folder) != sorted(FILES)))
    while not listing.exists():
        time.sleep(0.01)
    monkeypatch.setattr('cotap_mm.files.locks._POLL', 0.01)
    pause = time.sleep
    monkeypatch.setattr('cotap_mm.files.locks.time.sleep', lambda s: waited.touch() or pause(s))
    assert images_in(folder) == sorted(FILES)
    assert os.waitpid(child, 0)[1] == 0
    assert f'listing {folder}: waiting for process {child}' in log.text
    lists_itself = scans.count(str(folder)) == 2  # the first time until it is seen to be large
    assert lists_itself == (end != 'written') and index_of(folder).exists() == (end == 'written')
    assert not list((tmp_path / 'cache').rglob('*.lock')) or end == 'killed'


def test_a_folder_is_listed_without_a_place_for_locks(folder, tmp_path):
    (tmp_path / 'cache').touch()
    assert images_in(folder) == sorted(FILES) and index_of(folder).exists()


def test_the_progress_of_a_long_scan(folder, capsys, monkeypatch):
    scan_folder(folder)
    assert not capsys.readouterr().err
    monkeypatch.setattr(scan, '_QUIET', -1.0)
    monkeypatch.setattr('cotap_mm.progress._FIRST_LINE', -1.0)
    monkeypatch.setattr('cotap_mm.progress._NEXT_LINE', -1.0)
    scan_folder(folder)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == 'listing images: 2' and 'listing images: 7' in lines


def test_write_and_read(folder):
    found = scan_folder(folder)
    names = write_index(folder, found)
    index = read_index(Path(f'{folder}/../images'))
    assert names == index.names == sorted(FILES) and index.skipped == found.skipped
