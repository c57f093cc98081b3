"""Steps with non-finite gradients are skipped and logged; many in a row stop the training."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook, LoggerHook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS as mmengine_hooks

from cotap_mm.compat.workarounds import version_numbers
from cotap_mm.engine import NonFiniteHook
from cotap_mm.engine.hooks import non_finite_hook
from cotap_mm.engine.late_values import LateFlag
from cotap_mm.engine.optim import wrappers
from cotap_mm.models.modules import FeatureQueue
from tests.helpers import resume_work
from tests.helpers.rank_work import on_two_ranks


def wrapper_of(model, **optimizer):
    return build_optim_wrapper(
        model,
        dict(
            type='cotap_mm.MixedPrecisionOptimWrapper',
            dtype='float32',
            optimizer=dict(type='AdamW', lr=0.1, **optimizer),
        ),
    )


FUSED = pytest.param(
    dict(fused=True),
    marks=pytest.mark.skipif(
        version_numbers(torch.__version__) < (2, 4), reason='on a CPU it is fused since torch 2.4'
    ),
)


@pytest.mark.parametrize('optimizer', [dict(), FUSED, dict(foreach=True)])
@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_optimizer_skips_the_step(optimizer, bad):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    wrapper = wrapper_of(model, **optimizer)
    inputs = torch.randn(4, 3)

    def state():
        return (
            [param.detach().clone() for param in model.parameters()],
            {
                key: value.clone()
                for param in model.parameters()
                for key, value in wrapper.optimizer.state[param].items()
            },
        )

    wrapper.update_params(model(inputs).square().mean())
    assert not wrapper.step_skipped
    before = state()
    wrapper.update_params((model(inputs) * torch.tensor([1.0, bad])).sum())
    assert wrapper.step_skipped
    after = state()
    for one, other in zip(before[0] + list(before[1].values()), after[0] + list(after[1].values())):
        assert torch.equal(one, other)
    assert all(param.grad is None for param in model.parameters())
    wrapper.update_params(model(inputs).square().mean())
    assert not wrapper.step_skipped
    assert not torch.equal(state()[0][0], before[0][0])


def test_skipped_steps_are_always_logged(monkeypatch):
    """Also without a NonFiniteHook."""
    messages = []
    monkeypatch.setattr(
        'cotap_mm.engine.optim.wrappers.print_log', lambda text, **_: messages.append(text)
    )
    model = torch.nn.Linear(3, 2)
    for is_watched in (False, True):
        wrapper = wrapper_of(model)
        wrapper.is_watched = is_watched
        for factor in (float('nan'), float('nan'), 1.0):
            wrapper.update_params((model(torch.ones(1, 3)) * factor).sum())
        assert len(messages) == 2 and 'was skipped (2 in total)' in messages[1]


@pytest.mark.slow
def test_training_continues(tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr(
        'cotap_mm.engine.hooks.non_finite_hook.print_log', lambda text, **_: messages.append(text)
    )
    runner = resume_work.train(
        tmp_path, 5, hooks=[dict(type='NonFiniteHook', patience=2), resume_work.poison([1, 3])]
    )
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())
    assert runner.model.teacher.num_updates == 3
    assert [text.split(': gradients')[0] for text in messages] == ['iteration 2', 'iteration 4']
    assert '(1 in a row, 2 in total)' in messages[1] and 'loss_patch_ranking nan' in messages[1]
    assert 'Images of patch: toy/train-scene' in messages[1]
    assert runner.message_hub.get_scalar('train/skipped_steps').current() == 2


@pytest.mark.slow
def test_too_many_in_a_row_stop_the_training(tmp_path):
    with pytest.raises(FloatingPointError, match='iteration 4: 3 steps in a row .* lower '):
        resume_work.train(
            tmp_path,
            8,
            hooks=[dict(type='NonFiniteHook', patience=3), resume_work.poison([1, 2, 3])],
        )
    report = json.loads((tmp_path / 'non_finite_iter_4.json').read_text())
    assert report['weights_that_are_not_finite'] == []
    assert len(report['ranks'][0]['images']['cls']) > 2
    batch = torch.load(tmp_path / 'non_finite_iter_4_rank_0.pth', weights_only=True)
    assert batch['patch']['global_crops'].dtype == torch.uint8
    # The checkpoint before it is valid.
    state = torch.load(tmp_path / 'iter_2.pth', weights_only=True)['state_dict']
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.slow
@pytest.mark.parametrize('checkpoint_interval', [100, 4, 6])
def test_steps_are_judged_late(tmp_path, monkeypatch, checkpoint_interval):
    """After the next step if nothing is logged; before a save at once: none of a diverged run."""
    messages, seen = [], []
    monkeypatch.setattr(
        'cotap_mm.engine.hooks.non_finite_hook.print_log',
        lambda text, **_: messages.append((text.split(':')[0], seen[-1])),
    )

    class Notes(Hook):
        priority = 'VERY_HIGH'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.append(runner.iter + 1)

    mmengine_hooks.register_module(module=Notes, force=True)
    options = {'default_hooks.logger.interval': 50, 'checkpoint_interval': checkpoint_interval}
    with pytest.raises(FloatingPointError, match='iteration 6: 3 steps in a row'):
        resume_work.train(
            tmp_path,
            8,
            hooks=[
                dict(type='NonFiniteHook', patience=3),
                resume_work.poison([3, 4, 5]),
                dict(type='Notes', _scope_='mmengine'),
            ],
            **options,
        )
    assert messages == [
        ('iteration 4', 4 if checkpoint_interval == 4 else 5),
        ('iteration 5', 6),
        ('iteration 6', 6 if checkpoint_interval == 6 else 7),
    ]
    report = json.loads((tmp_path / 'non_finite_iter_6.json').read_text())
    assert report['iteration'] == 6 and report['learning_rates']
    saved = sorted(path.name for path in tmp_path.glob('iter_*.pth'))
    assert saved == (['iter_4.pth'] if checkpoint_interval == 4 else [])


class Run:
    """The hook over steps on a device that is some steps behind the host.

    Attributes:
        told (list[tuple[int, int]]): Skipped steps that were logged, and in which step they were.
        waits (int): How often the host has waited for the device.
    """

    def __init__(self, monkeypatch, behind, skipped, ranks=1, interval=1000, **options):
        self.behind, self.skipped, self.told, self.waits = behind, skipped, [], 0
        self.hook, self.now = NonFiniteHook(**options), 0
        monkeypatch.setattr(non_finite_hook, 'world_size', lambda: ranks)
        monkeypatch.setattr(non_finite_hook, 'print_log', self.tell)
        self.runner = SimpleNamespace(
            message_hub=SimpleNamespace(update_scalar=lambda *_: None),
            hooks=[LoggerHook(interval=interval)],
            train_dataloader=range(1000),
        )

    def tell(self, text, **_):
        self.told.append((int(text.split(':')[0].split()[1]), self.now))

    def flag(self, step):
        flag = LateFlag(torch.tensor(step in self.skipped))
        if self.behind is not None:
            flag.on_device = flag.on_device.to('meta')  # another device than the host
            behind = self.behind(step) if callable(self.behind) else self.behind
            flag._event = SimpleNamespace(
                query=lambda: self.now >= step + behind, synchronize=self.wait
            )
        return flag

    def wait(self):
        self.waits += 1

    def steps(self, number):
        for step in range(1, number + 1):
            self.now, self.runner.iter = step, step - 1
            self.runner.optim_wrapper = SimpleNamespace(
                skip_flag=self.flag(step), should_update=lambda: True, get_lr=dict
            )
            self.hook.after_train_iter(self.runner, step - 1, None, dict(loss=torch.ones(())))
        return self


@pytest.mark.parametrize(
    'ranks, behind, late, waits',
    [
        (1, None, 1, 0),  # on a CPU
        (2, None, 1, 0),
        (1, 0, 1, 0),
        (1, 2, 2, 0),
        (1, 3, 3, 0),
        (1, 9, 3, 12 - 3),  # the device is far behind, and has work for three steps
        (2, 0, 3, 0),  # the device of another rank may be slower
    ],
)
def test_flags_are_read_when_they_are_there(monkeypatch, ranks, behind, late, waits):
    run = Run(monkeypatch, behind, skipped={2, 3, 5, 8}, ranks=ranks).steps(12)
    assert run.told == [(step, step + late) for step in (2, 3, 5, 8)]
    assert run.waits == waits and run.hook.total == 4 and run.hook.in_a_row == 0


def test_flags_are_read_in_the_order_of_their_steps(monkeypatch):
    run = Run(monkeypatch, lambda step: 3 if step == 2 else 0, skipped={2, 3, 4, 5, 7}).steps(7)
    assert run.told == [(2, 5), (3, 5), (4, 5), (5, 6)] and run.waits == 0
    run.hook.after_train(run.runner)
    assert run.told[-1] == (7, 7) and run.hook.in_a_row == 1


@pytest.mark.parametrize('end', ['settle', 'before_val', 'after_train'])
def test_nothing_is_unknown_where_it_must_be_known(monkeypatch, end):
    run = Run(monkeypatch, 9, skipped={4, 6, 7, 8}, interval=5).steps(8)
    assert run.told == [(4, 5)]  # step 5 is logged
    getattr(run.hook, end)(run.runner)
    assert run.told == [(4, 5), (6, 8), (7, 8), (8, 8)] and run.hook.in_a_row == 3
    assert run.waits == 8


@pytest.mark.parametrize('ranks, behind, late', [(1, None, 1), (1, 2, 2), (1, 9, 3), (2, 0, 3)])
def test_late_flags_stop_the_training(monkeypatch, ranks, behind, late):
    """After the same step, whatever was enqueued since."""
    run = Run(monkeypatch, behind, skipped={1, 2, 4, 5, 6, 8}, ranks=ranks, patience=3)
    monkeypatch.setattr(run.hook, '_save_bundle', lambda _, step, __: f'bundle {step.iteration}')
    with pytest.raises(FloatingPointError, match='iteration 6: 3 steps in a row .* bundle 6'):
        run.steps(20)
    assert run.now == 6 + late and run.told[-1] == (6, run.now) and len(run.told) == 5


class Behind(LateFlag):
    """As on a device that is two steps behind the host."""

    made = 0

    def __init__(self, flag):
        super().__init__(flag)
        type(self).made += 1
        number = self.made
        self._event = SimpleNamespace(
            query=lambda: self.made >= number + 2, synchronize=lambda: None
        )


@pytest.mark.slow
def test_checkpoints_do_not_tell_how_late_flags_were_read(tmp_path, monkeypatch):
    """Nor do those of a resumed run."""
    options = {
        'default_hooks.logger.interval': 50,
        'checkpoint_interval': 4,
        'hooks': [dict(type='NonFiniteHook'), resume_work.poison([1, 2, 3, 5])],
    }
    resume_work.train(tmp_path / 'plain', 8, **options)
    monkeypatch.setattr(wrappers, 'LateFlag', Behind)
    resume_work.train(tmp_path / 'late', 8, **options)
    assert resume_work.train(tmp_path / 'killed', 8, kill_at=6, **options) is None
    resume_work.train(tmp_path / 'killed', 8, resume=True, **options)

    def saved(name):
        state = torch.load(tmp_path / name / 'iter_8.pth', weights_only=False)
        steps = state['message_hub']['log_scalars']['train/skipped_steps'].data[0].tolist()
        return state['state_dict'], steps

    (weights, steps), *others = map(saved, ('plain', 'late', 'killed'))
    assert steps == [1, 2, 3, 4] and all(other == steps for _, other in others)
    for other, _ in others:
        assert all(torch.equal(other[name], value) for name, value in weights.items())


@pytest.mark.slow
def test_a_bad_last_step_is_reported(tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr(
        'cotap_mm.engine.hooks.non_finite_hook.print_log', lambda text, **_: messages.append(text)
    )
    options = {'default_hooks.logger.interval': 50, 'checkpoint_interval': 100}
    hooks = [dict(type='NonFiniteHook'), resume_work.poison([2])]
    runner = resume_work.train(tmp_path, 3, hooks=hooks, **options)
    assert [text.split(':')[0] for text in messages] == ['iteration 3']
    assert runner.model.teacher.num_updates == 2


@pytest.mark.dist
def test_all_ranks_skip_the_step(tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('COTAP_TEST_FOLDER', str(tmp_path / 'run'))
    first, second = on_two_ranks(resume_work.poisoned_on_one, tmp_path)
    assert first['moved'] == second['moved'] == 3 and first['total'] == second['total'] == 1
    for name, value in first['weights'].items():
        assert torch.equal(value, second['weights'][name]) and value.isfinite().all(), name


def test_queues_skip_non_finite_rows():
    queue = FeatureQueue(4, (2,))
    queue.push(torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    queue.push(torch.tensor([[float('nan'), 1.0], [3.0, 3.0], [float('inf'), 0.0]]))
    assert queue.features.isfinite().all()
    assert queue.newest_first().tolist() == [[1.0, 1.0], [2.0, 2.0]]


def test_patience():
    with pytest.raises(ValueError, match='patience must be an integer >= 1, got 0'):
        NonFiniteHook(patience=0)


@pytest.mark.slow
def test_checkpoint_before_skipped_steps_is_kept(tmp_path, monkeypatch):
    """Also by a run that is resumed during them; of other checkpoints the newest two are kept."""
    monkeypatch.setattr(Config, 'pretty_text', property(resume_work.plain_text))  # faster
    options = {
        'checkpoint_interval': 1,
        'default_hooks.checkpoint.max_keep_ckpts': 2,
        'hooks': [dict(type='NonFiniteHook'), resume_work.poison([3, 4, 5, 6])],
    }

    def steps():
        found = [path.name.split('.')[0] for path in tmp_path.glob('iter_*.pth*')]
        assert sorted(found) == sorted(2 * list(set(found))), 'a checkpoint without its record'
        return sorted({int(name[5:]) for name in found})

    for kill_at, expected in ((3, [2, 3]), (4, [3, 4]), (6, [3, 5, 6]), (7, [3, 6, 7])):
        assert resume_work.train(tmp_path, 9, resume=True, kill_at=kill_at, **options) is None
        assert steps() == expected
    resume_work.train(tmp_path, 8, resume=True, **options)
    assert steps() == [7, 8]
