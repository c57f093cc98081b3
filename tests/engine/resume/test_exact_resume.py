"""A killed and resumed run is bit-identical to an uninterrupted one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cotap_mm.datasets import NeighborPairs, VisitSampler
from cotap_mm.engine.resume.train_loop import ResumableTrainLoop
from cotap_mm.models.modules import AssignmentQueue, FeatureQueue, TemplateBank
from tests.helpers import resume_work
from tests.helpers.rank_work import on_two_ranks


def assert_same(one, other, place='checkpoint'):
    """Compare dicts, lists and tensors bit for bit."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same(one[key], other[key], f'{place}.{key}')
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for index, (a, b) in enumerate(zip(one, other)):
            assert_same(a, b, f'{place}[{index}]')
    else:
        assert one == other, place


def saved(folder, step):
    checkpoint = torch.load(folder / f'iter_{step}.pth', weights_only=True)
    return {
        key: checkpoint[key] for key in ('state_dict', 'optimizer', 'param_schedulers', 'run_state')
    }


@pytest.mark.slow
@pytest.mark.smoke
def test_one_process(tmp_path):
    resume_work.train(tmp_path / 'whole', 8)
    # Killed in iteration 5 after checkpoint 4, then in 7 after checkpoint 6; each time resumed
    # with another number of workers.
    folder = tmp_path / 'killed'
    assert resume_work.train(folder, 8, kill_at=5) is None
    assert not (folder / 'iter_6.pth').exists()
    assert resume_work.train(folder, 8, num_workers=2, kill_at=7, resume=True) is None
    resume_work.train(folder, 8, num_workers=1, resume=True)
    whole = saved(tmp_path / 'whole', 8)
    assert_same(saved(folder, 8), whole)
    # The comparison can fail: without the random states the resumed run differs.
    checkpoint = torch.load(folder / 'iter_6.pth', weights_only=True)
    del checkpoint['run_state']
    torch.save(checkpoint, folder / 'iter_6.pth')
    for name in ('iter_6.pth.json', 'iter_8.pth'):
        (folder / name).unlink()
    resume_work.train(folder, 8, resume=True)
    with pytest.raises(AssertionError, match='state_dict'):
        assert_same(saved(folder, 8), whole)


@pytest.mark.slow
def test_crops_on_the_device(tmp_path):
    """A run killed, resumed, and with crops on the device equals one with crops in the workers."""
    resume_work.train(tmp_path / 'whole', 6)
    folder, options = tmp_path / 'killed', {'train_dataloader.dataset.crop_on': 'device'}
    assert resume_work.train(folder, 6, kill_at=3, **options) is None
    resume_work.train(folder, 6, num_workers=2, resume=True, **options)
    assert_same(saved(folder, 6), saved(tmp_path / 'whole', 6))


@pytest.mark.slow
def test_saves_by_time_change_nothing(tmp_path):
    """One run saves only at its end, the other one after every step."""
    resume_work.train(tmp_path / 'whole', 6, checkpoint_interval=100)
    folder, options = tmp_path / 'killed', dict(checkpoint_interval=100)
    options['default_hooks.checkpoint.interval_minutes'] = 1e-9
    assert resume_work.train(folder, 6, kill_at=3, **options) is None
    names = sorted(path.name for path in folder.glob('*.pth'))
    assert names == ['iter_1.pth', 'iter_2.pth', 'iter_3.pth']
    resume_work.train(folder, 6, resume=True, **options)
    assert_same(saved(folder, 6), saved(tmp_path / 'whole', 6))


@pytest.mark.slow
def test_half_precision_and_accumulated_gradients(tmp_path):
    """A checkpoint is due in iteration 3, within an accumulation, and waits for the next one."""
    options = dict(optim_wrapper=dict(dtype='bfloat16', accumulative_counts=2))
    resume_work.train(tmp_path / 'whole', 8, checkpoint_interval=3, **options)
    folder = tmp_path / 'killed'
    assert resume_work.train(folder, 8, checkpoint_interval=3, kill_at=5, **options) is None
    assert sorted(path.name for path in folder.glob('*.pth')) == ['iter_4.pth']
    resume_work.train(folder, 8, checkpoint_interval=3, resume=True, **options)
    assert_same(saved(folder, 8), saved(tmp_path / 'whole', 8))


@pytest.mark.slow
def test_seen_images_are_not_read_again(tmp_path, monkeypatch):
    assert resume_work.train(tmp_path, 8, kill_at=6) is None
    read = []
    draw = NeighborPairs._sample
    monkeypatch.setattr(
        'cotap_mm.datasets.NeighborPairs._sample',
        lambda self, visit, *memory, **more: (
            read.append(visit) or draw(self, visit, *memory, **more)
        ),
    )
    resume_work.train(tmp_path, 8, resume=True)
    assert len(read) == 2 * 4
    sampler = VisitSampler(range(13), seed=0)
    everything = [visit for visit, _ in zip(sampler, range(32))]
    assert read == everything[24:]


@pytest.mark.dist
def test_two_processes_and_then_one(tmp_path, monkeypatch):
    monkeypatch.setenv('COTAP_TEST_FOLDER', str(tmp_path))
    monkeypatch.setenv('WORLD_SIZE', '2')
    (tmp_path / 'ranks').mkdir()
    on_two_ranks(resume_work.two_runs, tmp_path / 'ranks')
    whole = saved(tmp_path / 'whole', 6)
    assert_same(saved(tmp_path / 'killed', 6), whole)
    state = whole['run_state']
    assert state['world_size'] == 2 and state['samples_seen'] == 6 * 2 * 4
    assert state['order'] == 'randperm'
    mine = whole['state_dict']['patch_queue.features']
    [theirs] = state['queues_of_other_ranks']['patch_queue']
    assert theirs['features'].shape == mine.shape and not torch.equal(theirs['features'], mine)

    # One process resumes with the rows of both.
    monkeypatch.delenv('WORLD_SIZE')
    messages = []
    monkeypatch.setattr(
        'cotap_mm.engine.resume.state.print_log', lambda text, **_: messages.append(text)
    )
    kept = {}

    class Seen(Exception):
        pass

    def look(self, runner, *args, **options):
        kept.update(runner.model.state_dict())
        kept['start'] = runner.train_loop.samples_seen
        raise Seen

    monkeypatch.setattr(resume_work.KillHook, 'before_train_iter', look)
    with pytest.raises(Seen):
        resume_work.train(tmp_path / 'whole', 8, resume=True, kill_at=6)
    rows = torch.cat([mine[mine.sum(1) > 0], theirs['features'][theirs['features'].sum(1) > 0]])
    now = kept['patch_queue.features']
    assert len(now) == 64 and len(rows) == int(kept['patch_queue.num_filled']) > 32
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, now[now.sum(1) > 0].tolist()))
    assert kept['start'] == 48 + 4
    assert len(messages) == 1 and messages[0].startswith(
        'resuming a run of 2 ranks on 1: merged and'
    )
    assert 'see' in messages[0] and '0.5 times as many' in messages[0]


class Iterator:
    """Stands for the iterator of MMEngine's loop."""

    def __init__(self, dataloader):
        self.visits = iter(dataloader.sampler)


def test_sampler_can_start_anywhere():
    def order(start, rank=0, world=1):
        sampler = VisitSampler(range(5), seed=2)
        sampler.start, sampler.rank, sampler.world_size = start, rank, world
        return [visit for visit, _ in zip(sampler, range(12))]

    whole = order(0)
    for start in (1, 4, 5, 7, 10):
        assert order(start)[: 12 - start] == whole[start:]
    assert order(3, rank=1, world=2)[:4] == whole[4:12:2]


@pytest.mark.parametrize('stored, used', [('randperm', 'randperm'), (None, 'feistel')])
def test_a_run_keeps_the_kind_of_order_that_it_started_with(monkeypatch, stored, used):
    monkeypatch.setattr('cotap_mm.datasets.samplers._MOST_STORED', 5)
    loop = object.__new__(ResumableTrainLoop)
    loop.dataloader = SimpleNamespace(sampler=VisitSampler(range(7), seed=2))
    loop.dataloader_iterator = Iterator(loop.dataloader)
    assert loop.order == 'feistel'
    loop.start_from(4, stored)
    wanted = VisitSampler(range(7), seed=2, order=used)
    wanted.start = 4
    seen = [visit for visit, _ in zip(loop.dataloader_iterator.visits, range(9))]
    assert loop.order == used and seen == [visit for visit, _ in zip(wanted, range(9))]


@pytest.mark.parametrize('worlds', [(1, 2), (2, 1), (2, 4), (4, 2), (3, 2)])
def test_queues_are_merged_and_split(worlds):
    before, now = worlds
    total = 24
    queues = [FeatureQueue(total // before, (1,)) for _ in range(before)]
    for step in range(3):  # each rank adds one row per step
        for index, queue in enumerate(queues):
            queue.push(torch.tensor([[100.0 * step + index]]))
    parts = [queue.state_dict() for queue in queues]
    taken = []
    for rank in range(now):
        queue = FeatureQueue(total // now, (1,))
        queue.push(torch.ones(2, 1))  # its previous rows are dropped
        queue.redistribute(parts, rank, now)
        rows = queue.newest_first().flatten().tolist()
        assert [row // 100 for row in rows] == sorted((row // 100 for row in rows), reverse=True)
        taken += rows
    assert sorted(taken) == sorted(
        100.0 * step + index for step in range(3) for index in range(before)
    )


def test_scores_are_redistributed_at_their_temperature_and_banks_completely():
    old = AssignmentQueue(8, 3, temperature=0.1, per_step=4)
    old.remember(torch.tensor([[0.5, 0.9, -0.2]]), torch.arange(1))
    new = AssignmentQueue(8, 3, temperature=0.2, per_step=4)
    new.redistribute([old.state_dict()], 0, 1)
    torch.testing.assert_close(new.newest_scores(), torch.tensor([[0.5, 0.9, -0.2]]))

    bank = TemplateBank(4, 2)
    bank.push(torch.arange(4.0).view(4, 1, 1, 1).expand(4, 2, 3, 3))
    for rank in (0, 1):
        other = TemplateBank(4, 2)
        other.redistribute([bank.state_dict()], rank, 2)
        assert other.is_full
        assert sorted(other.contents()[:, 0, 0, 0].tolist()) == [0, 1, 2, 3]
        assert other.newest_first()[0, 0, 0, 0] == rank
