"""Work of the gloo processes in the distributed tests; importable by the processes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.helpers.tool_loading import import_what_trainings_use


def free_port():
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def entry(rank, work, port, folder, world):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=world)
    try:
        torch.save(work(rank), Path(folder) / f'{rank}.pth')
        dist.barrier()  # rank 0 hosts the store that the others may still need
    finally:
        dist.destroy_process_group()


def on_ranks(work, folder, world):
    """Results of ``work(rank)`` of several processes."""
    import_what_trainings_use()
    # Forked ranks need no imports. They inherit no locks of threads, since tests use one thread.
    mp.start_processes(
        entry,
        args=(work, free_port(), str(folder), world),
        nprocs=world,
        start_method='fork' if hasattr(os, 'fork') else 'spawn',
    )
    return [torch.load(Path(folder) / f'{rank}.pth', weights_only=True) for rank in range(world)]


def on_two_ranks(work, folder):
    return on_ranks(work, folder, 2)


def scores():
    generator = torch.Generator().manual_seed(3)
    return torch.rand(24, 5, generator=generator)


def sinkhorn_half(rank):
    from cotap_mm.ops import sinkhorn

    return sinkhorn(scores().chunk(2)[rank], 0.05)


def train_three_steps(rank):
    from tests.helpers.tiny import build_tiny, make_inputs

    torch.manual_seed(0)  # the same start on both ranks
    model = build_tiny()
    wrapped = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    torch.manual_seed(rank)  # different draws and images on each
    assert model.patch_queue.size == 32, 'the queue is split between the ranks'
    for step in range(3):
        losses = wrapped(make_inputs(seed=10 * rank + step), mode='loss')
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        model.teacher.update(model.student, 0.9)
    assert model.template_bank.has_started_prototypes
    state = {name: value.clone() for name, value in model.named_parameters()}
    return dict(state, bank=model.template_bank.contents().clone())
