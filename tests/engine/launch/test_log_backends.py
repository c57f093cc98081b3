"""Metrics go to TensorBoard, Weights & Biases and MLflow by one option."""

from __future__ import annotations

import json
import sys

import pytest
from mmengine.config import Config
from mmengine.visualization import Visualizer

from cotap_mm.cli.train import parse_args
from cotap_mm.command_line.config_file import load_config
from cotap_mm.commands.train import build_config
from cotap_mm.engine.launch import config as run_config
from cotap_mm.engine.launch.writers import explained_services
from cotap_mm.errors import UserError
from tests.helpers import resume_work
from tests.helpers.tool_loading import forget_runs, load_tool

# Modules that record the calls of MMEngine's backends in a file.
STAND_IN = """
import json, os
from pathlib import Path

class _Any:
    def __getattr__(self, name):
        return _Any()
    def __call__(self, *args, **options):
        return _Any()

def _record(name, /, *args, **options):
    if os.environ.get('STAND_IN_FAILS') == name:
        raise RuntimeError('api_key not configured')
    with open(os.environ['STAND_IN_LOG'], 'a') as file:
        file.write(json.dumps([name, args, options], default=str) + '\\\\n')
    return _Any()

def __getattr__(name):
    if name.startswith('__'):
        raise AttributeError(name)
    return lambda *args, **options: _record(name, *args, **options)
"""


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Packages wandb and mlflow; returns a function that reads their calls."""
    folder, log = tmp_path / 'packages', tmp_path / 'calls'
    folder.mkdir()
    for name in ('wandb', 'mlflow'):
        monkeypatch.delitem(sys.modules, name, raising=False)
        text = STAND_IN.replace('\\\\n', '\\n')
        if name == 'wandb':
            text += '\nconfig = run = _Any()\n'
        (folder / f'{name}.py').write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv('STAND_IN_LOG', str(log))
    yield lambda: [json.loads(line) for line in log.read_text().splitlines()]
    forget_runs()  # the next run in this second would log to the stand-ins, too
    for name in ('wandb', 'mlflow'):
        sys.modules.pop(name, None)


def backends(*words, config='vits_folder'):
    args = parse_args([config, '--work-dir', 'work_dirs/mine', *words])
    return build_config(args).visualizer.vis_backends


def kinds(*words, **options):
    return [backend.type for backend in backends(*words, **options)]


LOCAL, BOARD = 'LocalVisBackend', 'TensorboardVisBackend'


def test_the_default_is_tensorboard_if_it_is_installed(monkeypatch):
    assert kinds() == [LOCAL, BOARD]
    assert kinds(config='voc_linear') == [LOCAL, BOARD]
    assert kinds('--dry-run') == kinds('--log', 'none') == [LOCAL]
    monkeypatch.setattr(run_config, 'find_spec', lambda name: None)
    assert kinds() == [LOCAL]
    with pytest.raises(ValueError, match='not installed: pip install tensorboard$'):
        kinds('--log', 'tensorboard')


def test_backends_of_the_config_are_kept():
    option = '--cfg-options', 'visualizer.vis_backends=[]'
    assert kinds(*option) == [LOCAL, BOARD]
    config = load_config('vits_folder')
    config.work_dir = 'x'
    for own, names, expected in (
        ([LOCAL, 'mine.Backend'], None, [LOCAL, 'mine.Backend']),
        ([LOCAL, 'mine.Backend'], ['tensorboard'], [LOCAL, 'mine.Backend', BOARD]),
        ([BOARD], None, [BOARD]),
        ([LOCAL, BOARD], ['none'], [LOCAL]),
        ([LOCAL, f'mmengine.{BOARD}'], ['tensorboard'], [LOCAL, BOARD]),
    ):
        config.visualizer.vis_backends = [dict(type=kind) for kind in own]
        run_config.set_log_backends(config, names)
        assert [backend.type for backend in config.visualizer.vis_backends] == expected
    bare = Config(dict(work_dir='x'))
    run_config.set_log_backends(bare, None)
    assert [backend.type for backend in bare.visualizer.vis_backends] == [LOCAL, BOARD]


def test_several_and_repeated(stand_ins, monkeypatch):
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'http://tracker')
    chosen = backends('--log', 'wandb', 'mlflow', '--log', 'wandb', 'tensorboard')
    assert [backend.type for backend in chosen] == [
        LOCAL, 'WandbVisBackend', 'MLflowVisBackend', BOARD
    ]  # fmt: skip
    assert chosen[1].init_kwargs == dict(project='cotap', name='mine')
    assert chosen[2].tracking_uri == 'http://tracker' and chosen[2].run_name == 'mine'


@pytest.mark.parametrize('name', ['wandb', 'mlflow'])
def test_missing_package(monkeypatch, name):
    monkeypatch.setattr(run_config, 'find_spec', lambda name: None)
    message = f'--log {name} needs a package that is not installed: pip install {name}'
    with pytest.raises(ValueError, match=message):
        kinds('--log', name)


def test_wrong_names(capsys):
    with pytest.raises(SystemExit) as end:
        parse_args(['c.py', '--log', 'wanb'])
    assert end.value.code == 2 and 'did you mean wandb?' in capsys.readouterr().err
    with pytest.raises(ValueError, match='--log none excludes all others, got --log none wandb'):
        kinds('--log', 'none', 'wandb')


@pytest.mark.slow
def test_metrics_arrive(tmp_path, stand_ins):
    config = resume_work.tiny_config(tmp_path / 'run', 2)
    (tmp_path / 'tiny.json').write_text(json.dumps(config._cfg_dict.to_dict()))
    load_tool('train').main(
        [str(tmp_path / 'tiny.json'), '--log', 'tensorboard', 'wandb', 'mlflow']
    )
    assert list((tmp_path / 'run').glob('*/vis_data/events.out.tfevents*'))
    calls = stand_ins()
    names = [name for name, _, _ in calls]
    assert dict(calls[names.index('init')][2])['project'] == 'cotap'
    logged = [args[0] for name, args, _ in calls if name == 'log']
    assert [scalars['loss'] > 0 for scalars in logged if 'loss' in scalars] == [True, True]
    metrics = [args for name, args, _ in calls if name == 'log_metrics']
    assert [step for scalars, step in metrics if 'loss' in scalars] == [1, 2]


def test_a_service_that_cannot_be_reached(tmp_path, stand_ins, monkeypatch):
    monkeypatch.setenv('STAND_IN_FAILS', 'init')
    visualizer = Visualizer(
        vis_backends=[dict(type='WandbVisBackend')], save_dir=str(tmp_path), name=str(tmp_path)
    )
    message = r'--log wandb cannot start \(RuntimeError: api_key not configured\); log in .wandb'
    with pytest.raises(UserError, match=message), explained_services():
        visualizer.add_config(Config(dict(a=1)))
    with pytest.raises(RuntimeError, match='^other$'), explained_services():
        raise RuntimeError('other')
