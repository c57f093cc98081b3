"""cotap_mm.pretrain does what ``cotap train`` does, and returns or raises."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

import cotap_mm
from cotap_mm import signals
from cotap_mm.api.messages import in_words_of_python, raised_in_python
from cotap_mm.api.pretrain import RENAMED, pretrain
from cotap_mm.api.run import PretrainedRun, join_curves
from cotap_mm.api.run_report import draw_report
from cotap_mm.cli.train import build_parser
from cotap_mm.command_line.config_file import load_config
from cotap_mm.commands.train import build_config
from cotap_mm.errors import UserError
from cotap_mm.files.locks import is_held
from cotap_mm.registry import HOOKS
from tests.helpers.mistakes import CONFIG
from tests.helpers.tool_loading import load_tool
from tests.helpers.toy_config import write_init, write_noise

LOGGED = 'default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))\n'


@HOOKS.register_module()
class InterruptHook(Hook):
    """As a user who presses Ctrl-C in the third iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            raise KeyboardInterrupt


@HOOKS.register_module()
class CtrlCHook(Hook):
    """As a terminal or the kernel of a notebook, which send a signal in the third iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            os.kill(os.getpid(), signal.SIGINT)


@HOOKS.register_module()
class WorkersHook(Hook):
    """Notes the processes in the first iteration, and after the training loop."""

    seen: list = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        type(self).seen = [set(multiprocessing.active_children())]

    def after_run(self, runner):
        self.seen.append(set(multiprocessing.active_children()))


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp('pretrain')
    rng = np.random.default_rng(0)
    for index in range(6):
        write_noise(place / 'images' / f'{index}.png', rng, (40, 48))
    write_init(place / 'init.pth')
    (place / 'tiny.py').write_text(CONFIG + LOGGED)
    return place


def run(place, out, **options):
    return pretrain(place / 'images', out, **{'config': place / 'tiny.py', **options})


@pytest.mark.slow
def test_equals_the_command_and_can_be_called_again(place, tmp_path, capsys):
    before = [set(kind._instance_dict) for kind in (MMLogger, MessageHub, Visualizer, DefaultScope)]
    # Both start in the same second, which MMEngine's own names do not tell apart.
    first = run(place, tmp_path / 'a', iterations=2, seed=3, progress=False)
    assert 'Iter(train)' in capsys.readouterr().out
    second = run(place, tmp_path / 'b', iterations=2, seed=3, progress=True)
    shown = capsys.readouterr()
    assert first.report is None
    assert 'Iter(train)' not in shown.out and 'training: 2 of 2 (100%)' in shown.err
    assert before == [
        set(kind._instance_dict) for kind in (MMLogger, MessageHub, Visualizer, DefaultScope)
    ]
    for found, name in ((first, 'a'), (second, 'b')):
        assert found.work_dir == tmp_path / name and found.iterations == 2
        assert found.checkpoint == tmp_path / name / 'iter_2.pth' and found.best is None
        assert {'monitor/feature_std', 'loss_patch_ranking'} <= set(found.before_after)
        assert math.isfinite(found.metrics['loss']) and found.history['loss'][0] == [1, 2]
        assert found.metrics['loss'] == found.history['loss'][1][-1]
        (log,) = found.logs
        assert log.is_relative_to(found.work_dir) and 'Iter(train)' in log.read_text()
        assert 'WARNING' not in found.config.read_text()
        assert load_config(str(found.config)).log_level == 'INFO'
    assert first.load(num_heads=2).encode(np.zeros((32, 32, 3), np.uint8)).cls.shape == (1, 32)

    arguments = ['--images', place / 'images', '--work-dir', tmp_path / 'c', '--seed', 3]
    load_tool('train').main(
        [str(place / 'tiny.py'), *map(str, arguments), '--cfg-options', 'train_cfg.max_iters=2']
    )
    wanted = torch.load(tmp_path / 'c/iter_2.pth', weights_only=True)['state_dict']
    for found in (first, second):
        weights = torch.load(found.checkpoint, weights_only=True)['state_dict']
        assert weights.keys() == wanted.keys()
        assert all(torch.equal(weights[name], value) for name, value in wanted.items())


@pytest.mark.slow
@pytest.mark.parametrize('is_persistent', [True, False])
def test_workers_end_with_the_training(place, tmp_path, is_persistent):
    before = set(multiprocessing.active_children())
    options = dict(
        train_dataloader=dict(persistent_workers=is_persistent),
        custom_hooks=[dict(type='WorkersHook')],
    )
    run(place, tmp_path / 'a', iterations=2, num_workers=2, options=options)
    during, after = WorkersHook.seen
    assert len(during - before) >= 2 and not after - before


@pytest.mark.slow
def test_interrupt_says_how_to_continue(place, tmp_path):
    hooks = dict(custom_hooks=[dict(type='InterruptHook')])
    with pytest.raises(KeyboardInterrupt, match='resume=True') as end:
        run(place, tmp_path / 'a', options=hooks)
    assert '--' not in str(end.value)
    assert not is_held(tmp_path / 'a/.lock')
    found = run(place, tmp_path / 'a', resume=True, progress=False)
    assert found.iterations == 4 and found.checkpoint == tmp_path / 'a/iter_4.pth'
    assert found.history['loss'][0] == [1, 2, 3, 4] and len(found.logs) == 2


@pytest.mark.slow
@pytest.mark.parametrize('where', ['script', 'kernel'])
def test_ctrl_c_saves_the_step(place, tmp_path, capsys, monkeypatch, where):
    if where == 'kernel':
        shell = SimpleNamespace(kernel=object())
        monkeypatch.setitem(sys.modules, 'IPython', SimpleNamespace(get_ipython=lambda: shell))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as end:
        run(
            place, tmp_path / 'a', iterations=5, options=dict(custom_hooks=[dict(type='CtrlCHook')])
        )
    assert str(end.value) == (
        f'interrupted. The last checkpoint is {tmp_path}/a/iter_3.pth, and resume=True continues '
        'from it'
    )
    shown = capsys.readouterr()
    assert ('training: 3 of 5 (60%)' in shown.out) == (where == 'kernel')
    assert (tmp_path / 'a/iter_3.pth').exists() and not is_held(tmp_path / 'a/.lock')
    assert signal.getsignal(signal.SIGINT) is before and not signals.is_listening()
    found = run(place, tmp_path / 'a', iterations=5, resume=True)
    assert found.iterations == 5 and found.history['loss'][0] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize('name', ['SIGINT', 'SIGINT on another rank'])
def test_stopped_by_ctrl_c(name):
    with pytest.raises(KeyboardInterrupt) as end, raised_in_python(build_parser(), RENAMED):
        raise signals.Stopped(name, 'A file is saved, and --resume continues')
    assert str(end.value) == 'interrupted. A file is saved, and resume=True continues'


def test_stopped_by_a_scheduler():
    with pytest.raises(signals.Stopped) as end, raised_in_python(build_parser(), RENAMED):
        raise signals.Stopped('SIGTERM', 'A file is saved')
    assert end.value.code == 75 and 'A file is saved' in str(end.value)


@pytest.mark.slow
def test_report_of_before_and_after(place, tmp_path):
    found = run(place, tmp_path / 'a', init=place / 'init.pth', iterations=1, report=True)
    assert found.report == tmp_path / 'a/report/report.html'
    text = found.report.read_text()
    assert '<td>before</td>' in text and '<td>after</td>' in text and found.metrics


def test_a_report_that_fails_is_a_warning(tmp_path):
    lost = PretrainedRun(tmp_path, None, None, 1, {}, {}, tmp_path, [])
    with pytest.warns(UserWarning, match='training is complete, but its report cannot be drawn'):
        assert draw_report(lost, None, None) is None


@pytest.fixture
def config_of(place, tmp_path, monkeypatch):
    """Config of a call, which is stopped before anything is built."""

    def call(**options):
        configs = []

        def stop(args, make_config, on_built):
            configs.append(make_config())
            raise ValueError('stop here')

        monkeypatch.setattr('cotap_mm.api.pretrain.train_command', stop)
        with pytest.raises(ValueError, match='stop here'):
            run(place, tmp_path / 'a', **options)
        return configs[0]

    return call


@pytest.mark.parametrize(
    'iterations, given, wanted', [(6, None, 1), (200, None, 20), (5000, None, 50), (6, 3, 3)]
)
def test_short_trainings_are_logged(config_of, iterations, given, wanted):
    own = {} if given is None else {'default_hooks.logger.interval': given}
    config = config_of(iterations=iterations, options={'default_hooks.logger.interval': 50, **own})
    assert config.default_hooks.logger.interval == (given or 50)
    config = config_of(iterations=iterations, config='vits_folder', options=own)
    assert config.default_hooks.logger.interval == wanted


def test_arguments_reach_the_config(config_of, place, tmp_path):
    config = config_of(
        init=place / 'init.pth',
        iterations=7,
        batch_size=3,
        num_workers=1,
        seed=5,
        options={'optim_wrapper.optimizer.lr': 0.5, 'default_hooks': dict(monitor=None)},
        progress=True,
    )
    assert config.work_dir == str(tmp_path / 'a')
    assert config.train_cfg.max_iters == 7 and config.randomness.seed == 5
    assert (config.train_dataloader.batch_size, config.train_dataloader.num_workers) == (3, 1)
    assert config.train_dataloader.dataset.patch.root == str(place / 'images')
    assert config.optim_wrapper.optimizer.lr == 0.5 and config.default_hooks.monitor is None
    assert config.model.init_cfg.checkpoint == str(place / 'init.pth')


@pytest.mark.parametrize(
    'log, wanted', [('none', []), (['tensorboard'], ['TensorboardVisBackend'])]
)
def test_log_is_that_of_the_command(config_of, place, tmp_path, log, wanted):
    given = [log] if isinstance(log, str) else log
    words = [str(place / 'tiny.py'), '--work-dir', str(tmp_path / 'a'), '--log', *given]
    found = config_of(log=log).visualizer
    assert found == build_config(build_parser().parse_args(words)).visualizer
    assert [each.type for each in found.vis_backends] == ['LocalVisBackend', *wanted]


@pytest.mark.parametrize(
    'options, error, text',
    [
        (dict(images='nowhere'), FileNotFoundError, 'folder nowhere does not exist.* images=DIR'),
        (dict(config='vith'), FileNotFoundError, 'the shipped configs are'),
        (
            dict(config='camvid_linear'),
            ValueError,
            'are for pre-training, but camvid_linear is for mmseg',
        ),
        (dict(init='missing.pth'), FileNotFoundError, 'checkpoint missing.pth is not a file'),
        (
            dict(batch_size=99),
            ValueError,
            "or lower it with options={'train_dataloader.batch_size'",
        ),
        (dict(trust=True), ValueError, 'trust=True requires init='),
        (
            dict(iterations=3, options={'train_cfg.max_iters': 2}),
            ValueError,
            r'iterations=3 and options\[.* set the same key',
        ),
        (dict(options={'modell.x': 1}), ValueError, "no 'modell'"),
        (dict(options={'model.neck.type': 'Nekc'}), ValueError, "type: unknown class 'Nekc'"),
        (dict(log='tensorbord'), ValueError, "log must be 'none' or .*, got 'tensorbord'$"),
        (
            dict(log=()),
            ValueError,
            "log must be 'none' or any of tensorboard, wandb, mlflow, got no name",
        ),
        (dict(log=('none', 'wandb')), ValueError, "log must be 'none' or .*, got 'none', 'wandb'$"),
        (dict(iterations='many'), ValueError, "max_iters: expected an integer >= 1, got 'many'"),
        (dict(out='{place}/tiny.py/a'), UserError, 'another folder with out='),
    ],
)
def test_errors_are_exceptions(place, tmp_path, options, error, text):
    arguments = dict(
        dict(images=place / 'images', out=tmp_path / 'a', config=place / 'tiny.py'), **options
    )
    arguments['out'] = str(arguments['out']).format(place=place)
    with pytest.raises(error, match=text) as caught:
        pretrain(**arguments)
    assert '--' not in str(caught.value)
    assert not (tmp_path / 'a').exists()


def test_wrong_config_values_of_other_classes_are_user_errors(place, tmp_path):
    with pytest.raises((UserError, ValueError), match='betas'):
        run(place, tmp_path / 'a', options={'optim_wrapper.optimizer.betas': 1})


@pytest.mark.slow
def test_a_folder_with_a_run_is_refused(place, tmp_path):
    run(place, tmp_path / 'a', iterations=1, progress=False)
    with pytest.raises(ValueError, match='resume=True to continue .* another out=') as caught:
        run(place, tmp_path / 'a')
    assert '--' not in str(caught.value)


@pytest.mark.parametrize(
    'text, wanted',
    [
        ('Pass --resume or --work-dir DIR', 'Pass resume=True or out=DIR'),
        ('set another --work-dir.', 'set another out=....'),
        ('--cfg-options a.b=3, then', "options={'a.b': 3}, then"),
        ('--cfg-options a.b: no', "options['a.b']: no"),
        ('--value-range LOW HIGH', 'value_range=LOW HIGH'),
        ('--log wandb needs', "log='wandb' needs"),
        ('--log is', 'log=... is'),
        ('--unknown and a--init', '--unknown and a--init'),
    ],
)
def test_messages_in_words_of_python(text, wanted):
    assert in_words_of_python(text, build_parser(), RENAMED) == wanted


def test_curves_of_a_resumed_run():
    first = dict(loss=([1, 2, 3], [9.0, 8.0, 7.0]), old=([1], [0.0]))
    second = dict(loss=([3, 4], [6.0, 5.0]), new=([3], [1.0]))
    assert join_curves([first, second]) == dict(
        loss=([1, 2, 3, 4], [9.0, 8.0, 6.0, 5.0]), old=([1], [0.0]), new=([3], [1.0])
    )


def test_is_exported():
    assert cotap_mm.pretrain is pretrain
