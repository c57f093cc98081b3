"""Progress is a bar in a terminal, a line in a notebook, else a line every so often; on rank 0."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

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


@pytest.fixture
def screen(monkeypatch):
    """What a terminal of 100 columns gets."""
    screen = io.StringIO()
    monkeypatch.setattr(
        module,
        'Console',
        lambda stderr: Console(file=screen, force_terminal=True, width=100),
    )
    return screen


@pytest.fixture
def notebook(monkeypatch):
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, 'IPython', SimpleNamespace(get_ipython=lambda: shell))


def test_lines_outside_of_a_terminal(clock, capsys):
    progress = Progress(1000, 'features', done=200)
    said = []
    for seconds in (4, 2, 20, 12, 300):
        clock[0] += seconds
        progress.update(100)
        said.append(capsys.readouterr().err)
    assert said == [
        '',
        'features: 400 of 1,000 (40%), about 18 s left, 0.03 s each\n',
        '',
        'features: 600 of 1,000 (60%), about 38 s left, 0.095 s each\n',
        'features: 700 of 1,000 (70%), about 3 min left, 0.676 s each\n',
    ]
    progress.close()
    clock[0] += 100
    progress.update(100)
    assert capsys.readouterr().err == ''


def test_an_unknown_number_of_items(clock, capsys):
    with Progress(None, 'listing images') as progress:
        clock[0] += 6
        progress.update(1200)
        clock[0] += 31
        progress.update(34, note='almost')
    assert capsys.readouterr().err.splitlines() == [
        'listing images: 1,200',
        'listing images: 1,234, almost',
    ]


def test_a_bar_for_an_unknown_number_of_items(clock, screen):
    with Progress(None, 'listing images') as progress:
        clock[0] += 1
        progress.update(1200)
    assert 'listing images: 1,200' in screen.getvalue()


def test_items_of_an_earlier_run_take_no_time(clock):
    progress = Progress(1000, 'features')
    progress.update(500, is_new=False)
    assert progress.describe() == 'features: 500 of 1,000 (50%)'
    clock[0] += 3600
    progress.update(100)
    assert progress.describe() == 'features: 600 of 1,000 (60%), about 4.0 h left, 36 s each'
    progress.update(400)
    assert progress.describe() == 'features: 1,000 of 1,000 (100%), took 60 min, 7.2 s each'


def test_note_and_last_line(clock, capsys):
    with Progress(10, 'training', done=4, show=True) as progress:
        clock[0] += 2
        assert not progress.is_due
        progress.update(2, note='loss 3')  # too early for a line
        assert capsys.readouterr().err == ''
        assert progress.describe() == 'training: 6 of 10 (60%), about 4 s left, loss 3, 1 s each'
        progress.update()
        clock[0] += 8
        assert progress.is_due
        progress.update(2)
        assert progress.is_due  # the last one
        assert capsys.readouterr().err.startswith('training: 9 of 10 (90%), about 2 s left, loss 3')
        progress.update(note='loss 2')
    assert capsys.readouterr().err == 'training: 10 of 10 (100%), took 10 s, loss 2, 1.67 s each\n'
    with pytest.raises(KeyError), Progress(3, 'failing', show=True) as progress:
        progress.update()
        raise KeyError
    assert capsys.readouterr().err == 'failing: 1 of 3 (33%), about 0 s left, 0 s each\n'


@pytest.mark.parametrize('options', [dict(show=False), dict(done=3), dict(rank=1)])
@pytest.mark.parametrize('show', [None, True])
def test_silence(clock, capsys, monkeypatch, options, show):
    monkeypatch.setattr(module, 'rank', lambda: options.get('rank', 0))
    kept = {name: value for name, value in options.items() if name != 'rank'}
    with Progress(3, 'features', **{'show': show, **kept}) as progress:
        for _ in range(3):
            clock[0] += 60
            assert not progress.is_due
            progress.update()
    assert capsys.readouterr() == ('', '')


def test_a_short_task_leaves_no_line_in_a_log(capsys):
    assert not module.is_interactive()
    with Progress(1, 'training') as progress:
        assert not progress.is_due
        progress.update()
    assert capsys.readouterr() == ('', '')


def test_a_bar_in_a_terminal(screen):
    assert list(track(iter('abc'), 3, 'letters')) == ['a', 'b', 'c']
    assert 'letters' in screen.getvalue() and '3 of 3 (100%)' in screen.getvalue()
    with pytest.raises(KeyError), Progress(2, 'failing'):
        raise KeyError
    assert '0 of 2' in screen.getvalue()
    with working('exporting'):
        pass
    assert 'exporting ...' in screen.getvalue()


@pytest.mark.parametrize('show', [None, True])
def test_a_bar_has_notes_and_is_kept_if_asked_to(clock, screen, show):
    with Progress(10, 'training [a]', show=show) as progress:
        shown = screen.getvalue()
        assert shown.rindex('\x1b[?25h') > shown.index('\x1b[?25l')  # the cursor is not hidden
        assert progress.is_due
        progress.update(2, note='loss 3')
        assert '2 of 10 (20%), about 0 s left, loss 3' in screen.getvalue()
        assert not progress.is_due
        progress.update()  # too early to be drawn
        assert '3 of 10' not in screen.getvalue()
        clock[0] += 9
        progress.update(4)
    shown = screen.getvalue()
    assert 'training [a]: 7 of 10 (70%), about 4 s left, loss 3, 1.29 s each' in shown
    last = shown[shown.rindex('training') :]
    assert ('\x1b[2K' in last) == (show is None)  # the line is erased


def test_a_notebook_redraws_one_line_on_stdout(clock, capsys, notebook):
    assert module.is_interactive()
    with Progress(10, 'training', done=4) as progress:
        clock[0] += 2
        assert progress.is_due
        progress.update(2, note='loss 3')
        assert not progress.is_due
        progress.update()  # too early to be drawn
        clock[0] += 8
        progress.update(3)
    shown = capsys.readouterr()
    first, second = shown.out.split('\r')[1:]
    assert first == 'training: 6 of 10 (60%), about 4 s left, loss 3, 1 s each'
    assert second == 'training: 10 of 10 (100%), took 10 s, loss 3, 1.67 s each\n'
    assert shown.err == ''


def test_a_notebook_shows_where_a_task_ended(capsys, notebook):
    with pytest.raises(KeyError), Progress(2, 'failing'):
        raise KeyError
    assert capsys.readouterr() == ('\rfailing: 0 of 2 (0%)\n', '')
    assert Progress(0, 'nothing to do').describe() == 'nothing to do: 0 of 0 (0%)'
