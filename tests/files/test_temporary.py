"""Leftovers of killed runs are removed; files in use or to be continued are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from cotap_mm.files.atomic_write import atomic_write
from cotap_mm.files.locks import Lock, acquire_lock
from cotap_mm.files.temporary import UNFINISHED, partial_path, remove_leftovers

DEAD = 10**9  # no process has that id


def test_only_leftovers_of_dead_processes_are_removed(tmp_path):
    host = partial_path(tmp_path / 'x').name.split('-')[2]
    dead = [
        f'{UNFINISHED}{DEAD}-iter_3.pth',
        f'{UNFINISHED}{DEAD}-{host}-iter_3.pth.json',
        f'{UNFINISHED}{os.getpid()}-{host}-last_checkpoint',  # of a restarted container
        'iter_4.pth.json',
        'a.npz.features.1234.00000',
        'a.npz.features.1234.00000.json',
        'a.npz.rows.x.0of2.npy',
        'a.npz.found.1234.00000',
        'a.npz.ivf.1234.whole',
        'b.npz.rows.0of2.npy',
        'b.npz.failed',
    ]
    alive = [
        f'{UNFINISHED}{os.getppid()}-{host}-iter_5.pth',
        f'{UNFINISHED}{DEAD}-@other-iter_5.pth',
        f'{UNFINISHED}notes.txt',
        'iter_6.pth',
        'iter_6.pth.json',
        'a.npz',
        'b.npz.features.00000',
        'c.npy.found.1234.00000',
        'c.npy.ivf.1234.whole',
        'non_finite_iter_3.json',
        'demo.py',
    ]
    for name in dead + alive:
        (tmp_path / name).write_text('')
    (tmp_path / 'iter_4.pth.json').write_text('{"good": [], "sum": ""}')
    (tmp_path / 'folder.rows.1').mkdir()
    assert sorted(remove_leftovers(tmp_path)) == sorted(dead)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*alive, 'folder.rows.1'])
    old = time.time() - 30 * 86400
    for name in ('b.npz.features.00000', f'{UNFINISHED}{DEAD}-@other-iter_5.pth'):
        os.utime(tmp_path / name, (old, old))
    assert len(remove_leftovers(tmp_path)) == 2
    assert remove_leftovers(tmp_path / 'missing') == []


def test_parts_of_a_running_build_are_kept(tmp_path):
    """Another process holds the lock of the build; the lock of this process is kept as well."""
    text = (
        'import sys, fcntl; file = open(sys.argv[1], "w"); '
        'fcntl.lockf(file, fcntl.LOCK_EX); print("ready", flush=True); sys.stdin.read()'
    )
    part = tmp_path / 'a.npz.rows.0of2.npy'
    part.write_text('')
    process = subprocess.Popen(
        [sys.executable, '-S', '-c', text, str(tmp_path / 'a.npz.lock')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        process.stdout.readline()
        mine = acquire_lock(tmp_path / '.lock', 'training', 'wait')
        assert remove_leftovers(tmp_path) == [] and part.exists()
        assert (tmp_path / '.lock').exists() and (tmp_path / 'a.npz.lock').exists()
    finally:
        process.communicate()
    mine.release()
    assert remove_leftovers(tmp_path) == [part.name]
    assert list(tmp_path.iterdir()) == [] and Lock(tmp_path / '.lock', 'training').acquire()


def test_files_of_other_programs_are_kept(tmp_path):
    """Files with similar names, as with ``--work-dir .``."""
    files = {
        'uv.lock': 'version = 1',
        'poetry.lock': '',
        'Cargo.lock': '# This',
        'x.npz.lock': 'x',
        '.lock': 'mine',
        'model.pth.json': '{"trained": 1}',
        'other.pth.json': 'not json',
        'yarn.lock': json.dumps(dict(host='h', pid=1, purpose='p')),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert remove_leftovers(tmp_path) == []
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_the_next_writer_of_a_file_removes_its_leftovers(tmp_path):
    pid = os.fork()
    if pid == 0:
        with atomic_write(tmp_path / 'out.json') as partial:
            partial.write_text('partial')
            os._exit(0)
    os.waitpid(pid, 0)
    assert len(list(tmp_path.glob(f'{UNFINISHED}{pid}-*-out.json'))) == 1
    (tmp_path / f'{UNFINISHED}{os.getppid()}-out.json').write_text('of another process')
    with atomic_write(tmp_path / 'out.json') as partial:
        partial.write_text('complete')
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'out.json',
        f'{UNFINISHED}{os.getppid()}-out.json',
    ]
