"""Two tools that train never write to the same folder concurrently."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

import pytest

from cotap_mm.engine.resume.work_folder import held_folder
from tests.helpers.mistakes import ending, listing
from tests.helpers.tool_loading import TOOLS, load_tool

HOLDER = """
import sys
from cotap_mm.files.locks import acquire_lock
acquire_lock(sys.argv[1], 'training', 'wait')
print('held', flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(lock):
    holder = subprocess.Popen(
        [sys.executable, '-c', HOLDER, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == 'held\n'
        yield holder.pid
    finally:
        holder.communicate('')


@pytest.mark.slow
@pytest.mark.parametrize(
    'tool, lock, arguments',
    [
        ('demo', '.lock', ['--iters', '1']),
        ('studies/noise_tolerance', '.noise_tolerance.lock', ['--quick', '--out', 'out']),
    ],
)
def test_second_process_is_rejected(tmp_path, monkeypatch, capsys, tool, lock, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [str(TOOLS), str(TOOLS / 'studies'), *sys.path])
    main = load_tool(tool).main
    with another_process(tmp_path / 'work' / lock) as number:
        before = listing(tmp_path)
        status, sentences, everything = ending(main, [*arguments, '--work-dir', 'work'], capsys)
        assert status == 1 and len(sentences) == 1, everything
        assert f'work is in use by process {number} on' in sentences[0]
        assert 'wait until it finishes, or set another --work-dir' in sentences[0]
        assert listing(tmp_path) == before


def test_new_folder_is_removed_if_it_stays_empty(tmp_path):
    with held_folder(tmp_path / 'a/b'):
        assert (tmp_path / 'a/b/.lock').exists()
    assert not (tmp_path / 'a').exists()
    with held_folder(tmp_path / 'a/b'):
        (tmp_path / 'a/kept').write_text('x')
    assert listing(tmp_path) == [('a', (tmp_path / 'a').stat().st_size), ('a/kept', 1)]
