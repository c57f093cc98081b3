"""tools/gpu_pass.py without a GPU: its stages are commands that exist; it stops and continues."""

from __future__ import annotations

import json

import pytest

from tests.helpers.tool_loading import TOOLS, load_tool

ROOT = TOOLS.parent


@pytest.fixture
def tool(monkeypatch):
    loaded = load_tool('gpu_pass')
    monkeypatch.setattr(loaded, '_SHORTEST', 0.5)
    return loaded


def test_stages_are_valid_commands(tool):
    found = tool.stages('camvid')
    assert [stage.name for stage in found][0] == 'tests'
    for stage in found:
        words = [word.format(json='result.json') for word in stage.command]
        words = ['cpu' if word == 'cuda' else word for word in words]
        if words[0] == 'tools/benchmark.py':
            args = load_tool('benchmark').parse_args(words[1:])
            assert args.json == 'result.json'
        elif words[0] == 'tools/train.py':
            load_tool('train').parse_args(words[1:])
        else:
            assert words[:2] == ['-m', 'pytest']
        for word in words:
            if word.startswith(('tools/', 'configs/')):
                assert (ROOT / word).is_file(), word


def test_results_are_stored_and_finished_stages_are_skipped(tool, tmp_path):
    out = tmp_path / 'out.json'
    good = tool.Stage('good', ['-c', "open('{json}', 'w').write('[3]'); print('hello')"], 60)
    bad = tool.Stage('bad', ['-c', 'raise SystemExit("no device")'], 60)
    slow = tool.Stage('slow', ['-c', 'import time; time.sleep(600)'], 1)
    results = tool.run_stages([good, bad, slow], out, 60)
    assert results == json.loads(out.read_text())
    assert results['good']['status'] == 'done' and results['good']['result'] == [3]
    assert 'hello' in results['good']['output']
    assert results['bad']['status'] == 'failed' and 'no device' in results['bad']['output']
    assert results['slow']['status'] == 'stopped' and 1 <= results['slow']['seconds'] < 30
    tool.run_stages([good._replace(command=['-c', 'x']), bad], out, 60)  # good is not repeated
    assert json.loads(out.read_text())['good'] == results['good']
    again = tool.run_stages([good._replace(command=['-c', 'x'])], out, 60, again=True)
    assert again['good']['status'] == 'failed'


def test_stages_without_time_are_named(tool, tmp_path):
    stage = tool.Stage('late', ['-c', 'pass'], 60)
    assert tool.run_stages([stage], tmp_path / 'out.json', 0.1)['late'] == dict(status='no time')


def test_variables_reach_the_processes(tool, tmp_path):
    stage = tool.Stage('shows', ['-c', 'import os; print(os.environ["CAMVID"])'], 60)
    results = tool.run_stages([stage], tmp_path / 'out.json', 60, CAMVID='here')
    assert 'here' in results['shows']['output']


def test_unknown_stage(tool, tmp_path):
    with pytest.raises(SystemExit, match=r"--only must name some of .*, got \['x'\]"):
        tool.main(['--only', 'x', '--out', str(tmp_path / 'out.json')])
