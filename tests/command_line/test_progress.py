"""The line of progress: what it says, and when it is written."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

from cotap_mm.command_line import progress
from cotap_mm.command_line.progress import ProgressLine


def test_line_counts_and_estimates(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, 'monotonic', lambda: clock[0])
    with ProgressLine(10, 'training', done=4, shown=True) as line:
        clock[0] += 2
        assert line.is_due
        line.update(2, note='loss 3')
        assert not line.is_due
        line.update()  # too early to be drawn
        clock[0] += 8
        line.update(3)
    shown = capsys.readouterr().err.split('\r')[1:]
    assert shown[0] == 'training: 6/10 (60%), 1 s each, 4 s left, loss 3'
    assert shown[1].startswith('training: 10/10 (100%), 1.67 s each, took 10 s, loss 3')
    assert len(shown) == 3 and shown[-1].endswith('\n')


def test_nothing_is_written_if_nobody_watches(capsys):
    with ProgressLine(1, 'training') as line:
        assert not line.is_due
        line.update()
    assert capsys.readouterr() == ('', '')


def test_a_notebook_shows_it_on_stdout(capsys, monkeypatch):
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, 'IPython', SimpleNamespace(get_ipython=lambda: shell))
    assert progress.is_interactive()
    with ProgressLine(0, 'nothing to do') as line:
        line.update(0)
    shown = capsys.readouterr()
    assert shown.out.startswith('\rnothing to do: 0/0') and shown.err == ''
