"""tools/benchmark.py ratios: measures, keeps a history, notices what became worse."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from tests.helpers.tool_loading import TOOLS, load_tool

ROOT = TOOLS.parent


@pytest.fixture
def history():
    return load_tool('benchmarks/history')


def run(*words):
    load_tool('benchmark').main(['ratios', *map(str, words)])


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_fills_the_page_and_is_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(TOOLS))
    path, page = tmp_path / 'records/h.jsonl', tmp_path / 'page.md'
    path.parent.mkdir()
    page.write_text('# Page\n\n<!-- ratios: begin -->\nold\n<!-- ratios: end -->\n\nThe end.\n')
    files = ('--history', path, '--page', page, '--runs', 2, '--only')
    run('--record', *files, 'ranking_loss')
    (record,) = records(path)
    value = record['ratios']['ranking_loss']
    assert 0 < value['ratio'] < 1 and value['runs'] == 2
    assert {'machine', 'torch', 'commit'} <= set(record)
    text = page.read_text()
    assert text.startswith('# Page\n') and text.endswith('\n\nThe end.\n') and 'old' not in text
    assert f'| {value["ratio"]:.2f} | ± {value["spread"]:.0%} | - | {record["date"]} |' in text

    measured = value['ratio']
    value['ratio'] = measured * 100
    path.write_text(json.dumps(record) + '\n')
    run('--check', *files, 'ranking_loss')  # an improvement is not an error
    assert '| ok' in capsys.readouterr().out
    value.update(ratio=measured / 100, spread=0)
    path.write_text(json.dumps(record) + '\n')
    with pytest.raises(SystemExit, match='worse than the last record in .*h.jsonl: ranking_loss'):
        run('--check', *files, 'ranking_loss')
    assert '| worse' in capsys.readouterr().out and len(records(path)) == 1
    run(*files, 'ranking_loss')  # prints the same, and does not fail


def test_what_is_worse(history):
    value = history.Value
    before = dict(a=value(1.0, 0.02, 5), b=value(1.0, 0.2, 5), c=value(1.0, 0.0, 5))
    before['e'] = before['c']
    now = dict(
        a=value(1.11, 0.02, 5), b=value(1.29, 0.1, 5), c=value(1.09, 0.0, 5), d=value(9, 0, 1)
    )
    now['e'] = value(9, 0.0, 5, way=2)
    rows, worse = history.compare(before, now)
    assert worse == ['a']
    assert [(row[0], row[-1]) for row in rows] == [
        *(('a', 'worse'), ('b', 'ok'), ('c', 'ok'), ('d', 'new')),
        ('e', 'measured in another way'),
    ]


def test_a_damaged_history_is_reported(history, tmp_path):
    path = tmp_path / 'h.jsonl'
    assert history.latest(path) == {}
    path.write_text('{"ratios": {"a": {"ratio": 1, "spread": 0, "runs": 1}}}\n{"rat\n')
    with pytest.raises(ValueError, match='line 2, must be a record of tools/benchmark.py ratios'):
        history.latest(path)


def test_a_page_without_marks_is_not_changed(history, tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('text\n')
    with pytest.raises(ValueError, match='must contain <!-- ratios: begin --> and'):
        history.fill_page(page, 'table')
    assert page.read_text() == 'text\n'


def test_an_unknown_ratio_is_reported(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    with pytest.raises(
        SystemExit, match=r"--only must name some of \['import', .*, got \['speed'\]"
    ):
        run('--only', 'speed')


def test_the_page_shows_the_last_record(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    ratios = importlib.import_module('benchmarks.ratios')
    found = ratios.history.read(ROOT / 'benchmarks' / 'history.jsonl')
    assert set(found[-1]) >= {'machine', 'date', 'ratios'}
    known = [ratio.name for ratio in ratios.RATIOS]
    assert set(ratios.history.latest(ROOT / 'benchmarks' / 'history.jsonl')) == set(known)
    assert ratios.without_faiss(lambda *_: ratios.nearest._faiss_if_installed())(None, 1) is None
    page = (ROOT / 'docs' / 'performance.md').read_text(encoding='utf-8')
    shown = page.split(ratios.history.BEGIN)[1].split(ratios.history.END)[0]
    assert shown.strip() == ratios.page_text(found)


def test_products_are_those_of_the_search(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    ratios = importlib.import_module('benchmarks.ratios')
    rows = ratios._unit_rows(5, 3)
    assert rows.norm(dim=1).sub(1).abs().max() < 1e-6
    ratios.products(rows, rows, block=2)()
    assert Path(ratios.TOOLS).name == 'tools'
