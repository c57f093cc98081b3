"""Two gloo processes: collectives agree with one process, weights stay the same on both."""
import os
import socket
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).resolve().parent / 'models'))

pytestmark = pytest.mark.dist


def free_port():
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def entry(rank, work, port, folder):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=2)
    try:
        torch.save(work(rank), Path(folder) / f'{rank}.pth')
    finally:
        dist.destroy_process_group()


def on_two_ranks(work, folder):
    mp.spawn(entry, args=(work, free_port(), str(folder)), nprocs=2)
    return [torch.load(Path(folder) / f'{rank}.pth', weights_only=True) for rank in (0, 1)]


def scores():
    generator = torch.Generator().manual_seed(3)
    return torch.rand(24, 5, generator=generator)


def sinkhorn_half(rank):
    from cotap_mm.ops import sinkhorn
    return sinkhorn(scores().chunk(2)[rank], 0.05)


def test_sinkhorn_on_halves_equals_the_whole(tmp_path):
    from cotap_mm.ops import sinkhorn
    halves = on_two_ranks(sinkhorn_half, tmp_path)
    torch.testing.assert_close(torch.cat(halves), sinkhorn(scores(), 0.05), rtol=1e-5, atol=1e-6)


def train_three_steps(rank):
    from conftest import build_tiny, make_inputs
    torch.manual_seed(0)  # the same start on both ranks
    model = build_tiny()
    wrapped = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    torch.manual_seed(rank)  # other draws and other images on each
    assert model.patch_queue.size == 32, 'the queue is shared out between the ranks'
    for step in range(3):
        losses = wrapped(make_inputs(seed=10 * rank + step), mode='loss')
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        model.teacher.update(model.student, 0.9)
    assert model.template_bank.has_started_prototypes
    state = {name: value.clone() for name, value in model.named_parameters()}
    return dict(state, bank=model.template_bank.contents().clone())


def test_ranks_keep_the_same_weights_and_their_own_memories(tmp_path):
    first, second = on_two_ranks(train_three_steps, tmp_path)
    assert not torch.equal(first.pop('bank'), second.pop('bank'))
    for name in first:
        assert torch.equal(first[name], second[name]), name
