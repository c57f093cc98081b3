"""tools/gpu_pass.py without a GPU: its stages are commands that exist; it stops and continues."""

from __future__ import annotations

import json

import pytest
from mmengine.config import Config

from cotap_mm.command_line.config_file import load_config
from tests.helpers.tool_loading import TOOLS, load_tool

ROOT = TOOLS.parent


@pytest.fixture
def tool(monkeypatch):
    loaded = load_tool('gpu_pass')
    monkeypatch.setattr(loaded, '_SHORTEST', 0.5)
    monkeypatch.setattr(loaded, '_GRACE', 1)
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
            if word.startswith('configs/'):
                assert 'renamed' not in Config.fromfile(ROOT / word), word
    commands = {stage.name: stage.command for stage in found}
    assert {'pairwise', 'compiled', 'sorted'} < set(commands['ranking loss'])
    assert len(commands) == len(found)


def test_the_most_valuable_stages_fit_into_ten_minutes(tool):
    found = tool.stages('camvid')
    training = next(index for index, stage in enumerate(found) if 'CamVid' in stage.name)
    first = sum(stage.limit for stage in found[:training])
    assert first <= 480 and first + found[training].reserved <= 600
    config = load_config(ROOT / found[training].command[1])
    assert config.model.backbone.arch == 'deit-small'
    (hook,) = config.custom_hooks  # before the first iteration and after the last one
    assert hook.type == 'EvaluationHook' and hook.interval == config.train_cfg.max_iters


def test_time_is_kept_for_a_later_stage(tool, tmp_path):
    slow = tool.Stage('slow', ['-c', 'import time; time.sleep(600)'], 60)
    say = "print('mIoU 3'); print('other')"
    late = tool.Stage('late', ['-c', say], 60, reserved=28, kept='mIoU')
    results = tool.run_stages([slow, late], tmp_path / 'out.json', 30)
    assert results['slow']['status'] == 'stopped' and results['slow']['seconds'] < 20
    assert results['late']['status'] == 'done' and results['late']['lines'] == ['mIoU 3']


def test_a_stopped_stage_may_save_its_work(tool, tmp_path):
    saved = tmp_path / 'saved'
    code = (
        'import pathlib, signal, sys, time\n'
        f'def save(*_): pathlib.Path({str(saved)!r}).touch(); sys.exit()\n'
        'signal.signal(signal.SIGTERM, save)\n'
        'time.sleep(600)'
    )
    results = tool.run_stages([tool.Stage('work', ['-c', code], 2)], tmp_path / 'out.json', 60)
    assert results['work']['status'] == 'stopped' and saved.exists()


def test_what_never_ran_comes_first(tool, tmp_path):
    out, ran = tmp_path / 'out.json', tmp_path / 'ran'
    names = ['failed', 'stopped', 'done', 'no time', 'new']
    out.write_text(json.dumps({name: dict(status=name) for name in names[:-1]}))
    write = "open({!r}, 'a').write('{} ')"
    tool.run_stages(
        [tool.Stage(name, ['-c', write.format(str(ran), name)], 60) for name in names], out, 60
    )
    assert ran.read_text() == 'no time new stopped failed '
    assert {each['status'] for each in json.loads(out.read_text()).values()} == {'done'}


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
