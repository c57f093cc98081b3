"""Helpers of the studies: stored runs, numbers, and pages that keep hand-written text."""

from __future__ import annotations

import json

import pytest
import study
from study import Panel, Summary


def test_finished_runs_are_not_repeated(tmp_path):
    store = tmp_path / 'deep' / 'runs.jsonl'
    seen = []

    def work(job):
        seen.append(job['x'])
        if job['x'] == 3:
            raise RuntimeError('power cut')
        return dict(twice=2 * job['x'])

    with pytest.raises(RuntimeError, match='power cut'):
        study.run_jobs(work, [dict(x=1), dict(x=2), dict(x=3)], store)
    found = study.run_jobs(work, [dict(x=2), dict(x=4), dict(x=1), dict(x=4)], store)
    assert [record['twice'] for record in found] == [4, 8, 2, 8]
    assert seen == [1, 2, 3, 4]
    assert all(record['seconds'] >= 0 for record in found)


@pytest.mark.slow
def test_workers(tmp_path):
    # A built-in function: the spawned processes cannot import this file.
    found = study.run_jobs(dict, [dict(x=x) for x in range(4)], tmp_path / 'runs.jsonl', workers=2)
    assert [record['x'] for record in found] == [0, 1, 2, 3]
    assert len((tmp_path / 'runs.jsonl').read_text().splitlines()) == 4


def test_bad_number_of_workers(tmp_path):
    with pytest.raises(ValueError, match='workers must be >= 1, got 0'):
        study.run_jobs(dict, [], tmp_path / 'runs.jsonl', workers=0)


def test_summary_by_hand():
    runs = [
        dict(kind='a', size=[4, 8], score=1.0),
        dict(kind='a', size=[4, 8], score=3.0),
        dict(kind='b', size=[4], score=5.0),
    ]
    found = study.summarize(runs, ('kind', 'size'), 'score')
    assert found == {
        ('a', (4, 8)): Summary(2.0, pytest.approx(2**0.5), 2),
        ('b', (4,)): Summary(5.0, 0.0, 1),
    }
    assert study.shown(found['a', (4, 8)], strong=True) == '**2.0 ± 1.4**'
    assert study.shown(found['b', (4,)]) == '5.0' and study.shown(None) == '-'


def test_json_comes_back(tmp_path):
    results = dict(made=dict(date='today'), seeds=[0, 1], empty=[], runs=[dict(a=1), dict(a=None)])
    study.write_json(tmp_path / 'new' / 'r.json', results)
    assert study.read_json(tmp_path / 'new' / 'r.json') == results
    assert len((tmp_path / 'new' / 'r.json').read_text().splitlines()) == 9
    with pytest.raises(FileNotFoundError, match='without --plot-only first'):
        study.read_json(tmp_path / 'none.json')


def test_page_keeps_what_was_written_by_hand(tmp_path):
    page = tmp_path / 'page.md'
    study.fill_page(page, 'results', 'first')
    page.write_text('# Words\n\n' + page.read_text() + '\nMore words.\n')
    study.fill_page(page, 'results', r'second \1')
    assert page.read_text() == (
        '# Words\n\n<!-- begin results -->\nsecond \\1\n<!-- end results -->\n\nMore words.\n'
    )
    page.write_text('# Words only\n')
    with pytest.raises(ValueError, match='must have one line <!-- begin results -->'):
        study.fill_page(page, 'results', 'third')
    assert page.read_text() == '# Words only\n'


def test_series_can_be_told_apart():
    names = list('abcdefg')
    styles = study.series_style(names, first='d')
    assert list(styles) == names
    assert len({style['color'] for style in styles.values()}) == 7
    assert styles['d']['lw'] == max(style['lw'] for style in styles.values())
    with pytest.raises(ValueError, match='at most 6 series beside the first .* got 7'):
        study.series_style(names)


def test_plot(tmp_path):
    from PIL import Image

    line = [(0, Summary(50.0, 2.0, 3)), (1, Summary(60.0, 1.0, 3))]
    panels = [
        Panel('one', dict(ours=line, other=line[::-1]), 'x', 'y', 40.0),
        Panel('two', dict(ours=line), ticks=['low', 'high']),
    ]
    study.plot_panels(tmp_path / 'p.png', panels, 2, 'A title', 'ours', 'start')
    with Image.open(tmp_path / 'p.png') as image:
        assert image.width > 400
        assert len(image.convert('RGB').getcolors(1 << 20)) > 20


def test_machine_can_be_written():
    assert set(json.loads(json.dumps(study.machine()))) >= {'date', 'machine', 'python', 'torch'}
