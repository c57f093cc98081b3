"""Memory that workers use again: never while somebody reads it, and with the same batches."""

from __future__ import annotations

import gc
import os
import pickle
import signal
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from cotap_mm.datasets import NeighborPairs, Visit, collate_samples
from cotap_mm.datasets import shared_parts as module
from cotap_mm.datasets.shared_parts import PART, SentParts, claim, forget_lent, lend, take_part

KEYS = [Visit(index=index % 10, count=index, seed=0) for index in range(24)]


class Noise:
    """Images of different sizes."""

    names = [f'{index:03d}.png' for index in range(10)]

    def __len__(self):
        return len(self.names)

    def name(self, index):
        return self.names[index]

    def read(self, index, is_large_enough=None):
        shape = 40 + 3 * index, 70 - 2 * index, 3
        return np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(params=['worker', 'device'])
def data(ring, request):
    crops = dict(global_size=32, local_size=16)
    nearest = ring(Noise.names)
    return NeighborPairs(Noise(), nearest, num_neighbors=3, crops=crops, crop_on=request.param)


def loader_of(data, collate_fn=collate_samples, batch_size=4, **options):
    return DataLoader(
        data, batch_size, sampler=KEYS, num_workers=1, collate_fn=collate_fn, **options
    )


def flat(batch):
    """Leaves of a batch by their paths."""
    if isinstance(batch, (torch.Tensor, str, int)):
        return {(): batch}
    items = batch.items() if isinstance(batch, dict) else enumerate(batch)
    return {(key, *path): value for key, inner in items for path, value in flat(inner).items()}


def assert_same(batch, expected):
    batch, expected = flat(batch), flat(expected)
    assert list(batch) == list(expected)
    for path, value in expected.items():
        assert type(batch[path]) is type(value), path
        same = torch.equal(batch[path], value) if torch.is_tensor(value) else batch[path] == value
        assert same, path


def in_this_process(data, size=4):
    return [
        default_collate(data.__getitems__(KEYS[low : low + size]))
        for low in range(0, len(KEYS), size)
    ]


def num_parts():
    return sum(len(pool.memories) for pool in module._received.values())


@pytest.fixture(autouse=True)
def _forget():
    yield
    gc.collect()
    module._received.clear()


def test_kept_batches_stay_and_freed_memory_is_used_again(data):
    expected = in_this_process(data)
    loader = loader_of(data, persistent_workers=True)
    kept = list(loader)
    for batch, wanted in zip(kept, expected):
        assert_same(batch, wanted)
    held = num_parts()
    assert held >= len(expected)
    for _ in range(2):  # the same memory again, while one batch of the first pass is kept
        del kept[1:]
        for batch, wanted in zip(loader, expected):
            assert_same(batch, wanted)
            del batch
        assert_same(kept[0], expected[0])
    assert num_parts() == held


def test_memory_is_small_if_batches_are_dropped(data):
    for batch in loader_of(data, prefetch_factor=1):
        del batch
    kinds = 1 if data.crops_on_device else 4  # of memory in a batch
    assert 0 < num_parts() <= 4 * kinds < 6 * kinds


def collated_by_the_user(samples):
    """Lets the tensors of the samples travel as they are."""
    return samples


@pytest.mark.parametrize('collate_fn', [default_collate, collated_by_the_user])
def test_other_ways_to_collate(data, collate_fn):
    """Batches are compared after all have been read: none was written over."""
    expected = in_this_process(data)
    batches = list(loader_of(data, collate_fn))
    if collate_fn is collated_by_the_user:
        if data.crops_on_device:
            pytest.skip('decoded images are sent only in batches')
        batches = [default_collate(batch) for batch in batches]
    for batch, wanted in zip(batches, expected):
        assert_same(batch, wanted)


@pytest.mark.slow
def test_spawned_workers(data):
    loader = loader_of(data, multiprocessing_context='spawn')
    for batch, wanted in zip(list(loader), in_this_process(data)):
        assert_same(batch, wanted)


@pytest.mark.slow
def test_batches_outlive_their_worker(data):
    """A worker that is killed leaves its batches; its memory is forgotten with the next worker."""
    expected = in_this_process(data)
    loader = loader_of(data)
    batches = iter(loader)
    first = next(batches)
    (worker,) = batches._workers
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    with pytest.raises(RuntimeError, match='exited unexpectedly'):
        list(batches)
    assert_same(first, expected[0])
    del batches
    for batch, wanted in zip(list(loader), expected):
        assert_same(batch, wanted)
    assert worker.pid not in {pid for pid, _ in module._received}
    assert_same(first, expected[0])


@pytest.fixture
def as_worker(monkeypatch):
    monkeypatch.setattr(module, 'get_worker_info', lambda: True)
    monkeypatch.setattr(module, '_pool', None)
    yield
    module._lent.clear()


def test_dropped_parts_are_free(as_worker):
    first, large = take_part(), take_part(PART + 1)
    assert len(first.memory) == PART and len(large.memory) == 2 * PART
    address = first.memory.data_ptr()
    assert take_part().memory.data_ptr() != address
    del first
    assert take_part().memory.data_ptr() == address


def test_sent_parts_are_free_when_the_receiver_drops_them(as_worker):
    part = take_part()
    part.memory[:6] = torch.arange(6)
    address, pool = part.memory.data_ptr(), part.pool
    sent = SentParts([part], [6], (3,))
    (received,) = pickle.loads(ForkingPickler.dumps(sent))
    with pytest.raises(RuntimeError, match='only once, since their memory is used again'):
        ForkingPickler.dumps(sent)
    del sent, part
    assert received.tolist() == [[0, 1, 2], [3, 4, 5]]
    view = received[1]
    del received
    assert pool.in_use[0] and take_part().memory.data_ptr() != address
    del view
    assert not pool.in_use[0] and take_part().memory.data_ptr() == address


def test_a_forked_process_frees_nothing(as_worker):
    in_use = np.ones(2, np.uint8)
    module._give_back(in_use, 0, os.getpid())
    module._give_back(in_use, 1, os.getpid() + 1)
    assert in_use.tolist() == [0, 1]


def test_lent_memory(as_worker):
    memory = lend(2, 3)
    assert claim([memory[1], memory[0]]) is None  # in another order
    assert claim([memory[0].clone(), memory[1]]) is None
    claimed = claim(list(memory))
    (tensor,) = claimed
    assert tensor.data_ptr() == memory.data_ptr() and tensor.shape == (2, 3)
    assert claim(list(memory)) is None
    forget_lent()
    pool = module._pool
    assert pool.lends
    lost = lend(2, 3)  # perhaps sent by somebody else
    forget_lent()
    assert not pool.lends and pool.in_use[1]
    assert lend(2, 3).data_ptr() != lost.data_ptr() and not module._lent


def test_more_parts_than_a_pool_has(as_worker, monkeypatch):
    monkeypatch.setattr(module, '_MOST', 1)
    parts = [take_part(), take_part()]
    assert parts[1].pool is None
    function, (listed,) = SentParts(parts, [3, 3], (3,)).__reduce__()
    assert function is list and len(listed) == 2
    pool = parts[0].pool
    del parts
    assert pool.in_use[0]  # it is somewhere on its way
