"""A whole iteration with the default hooks never waits for the device, unless it is logged."""

from __future__ import annotations

import copy
import pickle
import uuid
from contextlib import contextmanager, nullcontext

import pytest
import torch
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.logging import HistoryBuffer, MessageHub

from cotap_mm.compat.workarounds import version_numbers
from cotap_mm.engine.hooks import DeferredInfoHook
from cotap_mm.engine.late_values import LateFlag, log_later
from cotap_mm.engine.launch import runner as launch
from cotap_mm.engine.launch.preflight import prepare
from cotap_mm.engine.optim import wrappers
from cotap_mm.models import data_preprocessor
from tests.helpers.no_waiting import NoWaiting, WorkOnMeta
from tests.helpers.resume_work import tiny_config

LOGGED = 20  # interval of the log
ITERATIONS = 12  # after 6, the first losses are noted; the queues are full then


@contextmanager
def no_waiting(monkeypatch):
    """Also no lists from tensors, except of colors, which are planned on the CPU."""
    mode = NoWaiting()

    def plan_color(*args, **options):
        mode.is_paused = True
        try:
            return plain(*args, **options)
        finally:
            mode.is_paused = False

    def to_list(tensor):
        raise AssertionError('tolist waits for the device')

    plain = data_preprocessor.plan_color
    with monkeypatch.context() as patched, mode:
        patched.setattr(data_preprocessor, 'plan_color', plan_color)
        patched.setattr(torch.Tensor, 'tolist', to_list)
        yield


def trained(folder, **options):
    """Runner after a tiny training with our default hooks and a logger that logs rarely."""
    rarely = {f'default_hooks.{name}.interval': LOGGED for name in ('logger', 'monitor')}
    rarely['checkpoint_interval'] = 1000
    config = tiny_config(folder, ITERATIONS, **rarely, **options)
    config.custom_hooks = []
    config.experiment_name = f'waits_{uuid.uuid4().hex}'
    prepare(config)
    runner = launch.runner_of(config)
    runner.train()
    return runner


def to_another_device(runner):
    """Move what a step of a training uses to ``meta``; return it."""
    model, optimizer = runner.model, runner.optim_wrapper.optimizer
    here = list(model.parameters())
    model.to('meta')
    there = dict(zip(here, model.parameters()))
    state = {
        there[param]: {name: value.to('meta') for name, value in values.items()}
        for param, values in optimizer.state.items()
    }
    optimizer.state.clear()
    optimizer.state.update(state)
    for group in optimizer.param_groups:
        group['params'] = [there[param] for param in group['params']]
    states = [value for values in state.values() for value in values.values()]
    return [*there.values(), *model.buffers(), *states]


class FlagOfMeta(LateFlag):
    """As on a GPU that is two steps behind the host."""

    made = 0

    def __init__(self, flag):
        super().__init__(flag)
        self._host, self._event = torch.tensor(False), self
        type(self).made += 1
        self.number = self.made

    def query(self):
        return self.made >= self.number + 2

    def synchronize(self):
        raise AssertionError('an event waits for the device')


#: What user code does: by name, what makes the host wait for the loss or for a flag.
WAITS = dict(
    item=lambda loss, _: loss.item(),
    float=lambda loss, _: float(loss.detach()),
    comparison=lambda loss, _: max(loss.detach(), 0.5),
    tolist=lambda loss, _: loss.tolist(),
    cpu=lambda loss, _: loss.cpu(),
    to=lambda loss, _: loss.to('cpu'),
    numpy=lambda loss, _: loss.detach().cpu().numpy(),
    copy=lambda loss, _: torch.empty(()).copy_(loss.detach()),
    mask=lambda loss, _: loss[None][loss[None] > 0],
    to_device=lambda loss, _: torch.ones(3).to(loss.device),
    new_number=lambda loss, _: loss + torch.tensor(0.5, device=loss.device),
    history=lambda _, runner: runner.message_hub.get_scalar('train/loss').current(),
    flag=lambda _, runner: bool(runner.optim_wrapper.skip_flag.on_device),
    decision=lambda _, runner: runner.optim_wrapper.step_skipped,
)


class Reads(Hook):
    """Tries each of :data:`WAITS` after a step."""

    def __init__(self):
        self.found = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        for name, read in WAITS.items():
            try:
                read(outputs['loss'], runner)
            except AssertionError as error:
                self.found[name] = str(error)


@pytest.mark.slow
@pytest.mark.skipif(
    version_numbers(torch.__version__) < (2, 4), reason='on a CPU it is fused since torch 2.4'
)
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'optim_wrapper.clip_grad': dict(max_norm=1.0), 'optim_wrapper.accumulative_counts': 2},
    ],
)
def test_an_iteration_never_waits(tmp_path, monkeypatch, options):
    """From the batch to the last hook: first on the CPU, then with networks on ``meta``."""
    runner = trained(tmp_path, **{'optim_wrapper.optimizer.fused': True, **options})
    loop = runner.train_loop
    batch = next(loop.dataloader_iterator)
    runner.optim_wrapper.initialize_count_status(runner.model, ITERATIONS, 2 * LOGGED)
    with no_waiting(monkeypatch):
        for _ in range(4):
            loop.run_iter(batch)
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == ITERATIONS + 4 and all(losses > 0)
    if options:
        assert len(runner.message_hub.get_scalar('train/grad_norm').data[0]) == ITERATIONS / 2 + 2

    monkeypatch.setattr(torch, 'autocast', lambda *_, **__: nullcontext())  # does not support meta
    monkeypatch.setattr(wrappers, 'LateFlag', FlagOfMeta)
    reads = Reads()
    with WorkOnMeta(*to_another_device(runner)) as mode:
        loop.run_iter(batch)
        runner.hooks.append(reads)
        loop.run_iter(batch)
        runner.hooks[-1] = RuntimeInfoHook()
        with pytest.raises(AssertionError, match='waits'):
            loop.run_iter(batch)
        runner.hooks.pop()
        loop.run_iter(batch)
    assert loop.iter == LOGGED - 1
    assert len(mode.copies) == 4 * 5  # crops of two sizes and branches, and all numbers
    assert reads.found.keys() == WAITS.keys()
    assert all('waits for' in text for text in reads.found.values())
    with mode, pytest.raises(AssertionError, match='waits'):  # the next iteration is logged
        loop.run_iter(batch)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_an_iteration_never_waits_for_a_real_device(tmp_path):
    runner = trained(tmp_path)
    batch = next(runner.train_loop.dataloader_iterator)
    torch.cuda.set_sync_debug_mode('error')
    try:
        for _ in range(4):
            runner.train_loop.run_iter(batch)
        with pytest.raises(RuntimeError, match='synchron'):
            runner.message_hub.get_scalar('train/loss').current()
    finally:
        torch.cuda.set_sync_debug_mode('default')


def hubs():
    return [MessageHub(f'{name}_{uuid.uuid4().hex}') for name in ('plain', 'late')]


def values(hub):
    return {name: [part.tolist() for part in each.data] for name, each in hub.log_scalars.items()}


def test_late_values_are_the_same_numbers():
    """Whatever is read in between, for all types, and with a limited length."""
    plain, late = hubs()
    for step in range(30):
        for name, value in (
            ('loss', torch.rand((), requires_grad=True)),
            ('exact', torch.rand(1, dtype=torch.float64)),
            ('half', torch.rand((), dtype=torch.bfloat16)),
            ('count', torch.tensor(step)),
            ('rate', 0.5 * step),
        ):
            plain.update_scalar(name, value)
            log_later(late, name, value)
        if step == 20:
            plain.update_scalar('loss', 7.0)
            late.update_scalar('loss', 7.0)  # of other code, in the right order
        if step % 7 == 0:
            assert late.get_scalar('loss').current() == plain.get_scalar('loss').current()
            assert late.get_scalar('half').mean(5) == plain.get_scalar('half').mean(5)
            for hub in (plain, late):
                for history in hub.log_scalars.values():
                    history.max_length = 11
    assert values(late) == values(plain) and list(late.log_scalars) == list(plain.log_scalars)
    for name, history in late.log_scalars.items():
        assert history.data[0].dtype == plain.get_scalar(name).data[0].dtype
        assert history.data[1].dtype == plain.get_scalar(name).data[1].dtype


def test_late_values_are_saved_and_resumed_as_mmengine_expects():
    plain, late = hubs()
    for hub, log in ((plain, MessageHub.update_scalar), (late, log_later)):
        log(hub, 'loss', torch.tensor(0.5))
        log(hub, 'loss', torch.tensor(0.25))
    saved = late.state_dict()
    assert type(saved['log_scalars']['loss']) is HistoryBuffer
    assert type(pickle.loads(pickle.dumps(late.get_scalar('loss')))) is HistoryBuffer
    assert type(copy.copy(late.get_scalar('loss'))) is HistoryBuffer
    resumed, _ = hubs()
    resumed.load_state_dict(saved)
    log_later(resumed, 'loss', torch.tensor(2.0))
    plain.update_scalar('loss', torch.tensor(2.0))
    assert values(resumed) == values(plain)
    assert values(late)['loss'][0] == [0.5, 0.25]


def test_unread_values_do_not_pile_up(monkeypatch):
    monkeypatch.setattr('cotap_mm.engine.late_values._MOST', 3)
    _, late = hubs()
    for step in range(4):
        log_later(late, 'loss', torch.tensor(float(step)))
    assert len(late.log_scalars['loss']._pending._values) == 1
    assert late.get_scalar('loss').data[0].tolist() == [0, 1, 2, 3]


def test_the_hook_replaces_that_of_mmengine():
    assert issubclass(DeferredInfoHook, RuntimeInfoHook)
    assert LateFlag(torch.tensor(True)).read() and not LateFlag(torch.tensor(False)).read()
