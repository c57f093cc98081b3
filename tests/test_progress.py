"""Progress is a bar in a terminal, and a line every so often elsewhere; only on rank 0."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cotap_mm import progress as module
from cotap_mm.progress import Progress, track, working


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is advanced: ``clock[0] += seconds``."""
    now = [100.0]
    monkeypatch.setattr(module.time, 'monotonic', lambda: now[0])
    return now


def test_lines_outside_of_a_terminal(clock, capsys):
    progress = Progress(1000, 'features', done=200)
    said = []
    for seconds in (4, 2, 20, 12, 300):
        clock[0] += seconds
        progress.update(100)
        said.append(capsys.readouterr().err)
    assert said == [
        '',
        'features: 400 of 1,000, about 18 s left\n',
        '',
        'features: 600 of 1,000, about 38 s left\n',
        'features: 700 of 1,000, about 3 min left\n',
    ]
    progress.close()
    clock[0] += 100
    progress.update(100)
    assert capsys.readouterr().err == ''


def test_items_of_an_earlier_run_take_no_time(clock):
    progress = Progress(1000, 'features')
    progress.update(500, is_new=False)
    assert progress.describe() == 'features: 500 of 1,000'
    clock[0] += 3600
    progress.update(100)
    assert progress.describe() == 'features: 600 of 1,000, about 4.0 h left'
    progress.update(400)
    assert progress.describe() == 'features: 1,000 of 1,000'


@pytest.mark.parametrize('options', [dict(show=False), dict(done=3), dict(rank=1)])
def test_silence(clock, capsys, monkeypatch, options):
    monkeypatch.setattr(module, 'rank', lambda: options.get('rank', 0))
    kept = {name: value for name, value in options.items() if name != 'rank'}
    with Progress(3, 'features', **kept) as progress:
        for _ in range(3):
            clock[0] += 60
            progress.update()
    assert capsys.readouterr() == ('', '')


def test_a_bar_in_a_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        module,
        'Console',
        lambda stderr: Console(file=screen, force_terminal=True, width=80),
    )
    assert list(track(iter('abc'), 3, 'letters')) == ['a', 'b', 'c']
    assert 'letters' in screen.getvalue() and '3/3' in screen.getvalue()
    with pytest.raises(KeyError), Progress(2, 'failing'):
        raise KeyError
    assert '0/2' in screen.getvalue()
    with working('exporting'):
        pass
    assert 'exporting ...' in screen.getvalue()
