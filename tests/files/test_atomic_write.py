"""Regular files only, encoding and display of file names, atomic writes."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from cotap_mm.files.atomic_write import (
    UnusableFile,
    atomic_write,
    name_bytes,
    name_text,
    open_regular,
    printable,
    read_regular,
)
from tests.helpers.faults import time_limit


def special(kind, path):
    if kind == 'named pipe':
        os.mkfifo(path)
    elif kind == 'socket':
        folder = os.getcwd()
        os.chdir(path.parent)  # the path of a socket must be short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(folder)
    elif kind == 'device':
        os.symlink('/dev/zero', path)
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize('kind', ['named pipe', 'socket', 'device', 'folder'])
@pytest.mark.parametrize('through_link', [False, True])
def test_special_files_are_refused_without_blocking(tmp_path, kind, through_link):
    path = special(kind, tmp_path / 'photo.jpg')
    if through_link:
        os.symlink(path, tmp_path / 'link.jpg')
        path = tmp_path / 'link.jpg'
    with time_limit(30), pytest.raises(UnusableFile, match=f'{path.name} must be .* is a {kind}'):
        open_regular(path)


def test_a_pipe_that_replaces_a_file_while_it_is_opened(tmp_path, monkeypatch):
    """After the first check, before opening."""
    path, other = special('named pipe', tmp_path / 'pipe'), tmp_path / 'file'
    other.write_bytes(b'x')
    status = os.stat(other)
    monkeypatch.setattr('cotap_mm.files.atomic_write.os.stat', lambda *_: status)
    with time_limit(30), pytest.raises(UnusableFile, match='named pipe'):
        open_regular(path)


def test_the_size_is_checked_before_reading(tmp_path):
    path = tmp_path / 'sparse'
    with open(path, 'wb') as file:
        file.truncate(30 << 30)
    with pytest.raises(UnusableFile, match='32,212,254,720 bytes, more than the limit of 1,000'):
        read_regular(path, 1000)
    path.write_bytes(b'0123456789')
    assert read_regular(path, 10) == b'0123456789' == read_regular(path)


@pytest.mark.parametrize(
    'data, shown',
    [
        (b'caf\xe9.jpg', 'caf\\xe9.jpg'),
        ('café 😀.jpg'.encode(), 'café 😀.jpg'),
        (b'two\nlines', 'two\\nlines'),
        (b'\x1b[31mred', '\\x1b[31mred'),
        (b'', ''),
        ('e\u0301'.encode(), 'e\u0301'),
        ('\u2028\u202e'.encode(), '\\u2028\\u202e'),
        (b'\xff\xfe\x80', '\\xff\\xfe\\x80'),
        (b' "a\' b ', ' "a\' b '),
    ],
)
def test_names(data, shown):
    name = os.fsdecode(data)
    assert name_text(data) == name and name_bytes(name) == data
    assert printable(name) == shown
    printable(name).encode('utf-8')


def test_a_lone_surrogate_is_escaped():
    assert printable('a\ud800') == 'a\\ud800'


def test_the_error_of_a_full_disk_names_the_file(tmp_path):
    """Without atomic_write, the error of a write to an open file does not."""
    path = tmp_path / 'a' / 'n.npz'
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"), atomic_write(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError) as raised, atomic_write(path):
        raise OSError(errno.EIO, 'of a file that was read')
    assert raised.value.filename is None and not list(path.parent.iterdir())
