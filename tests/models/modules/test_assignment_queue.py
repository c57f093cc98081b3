"""Stored type of the assignment queue, and the sums that it keeps of its rows."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cotap_mm.models import TemplateBank
from cotap_mm.models.losses import PrototypeEntropyLoss
from cotap_mm.models.modules import AssignmentQueue
from cotap_mm.models.modules.feature_queue import FeatureQueue
from cotap_mm.ops.sinkhorn import balance

CLUSTERS = 5


def make_queue(size=300, per_step=90, **options):
    return AssignmentQueue(size, CLUSTERS, temperature=0.05, per_step=per_step, **options)


def draw(count, generator):
    return torch.rand(count, CLUSTERS, generator=generator) * 2 - 1


def remember(queue, scores, count=None):
    count = None if count is None else torch.tensor(count)
    queue.remember(scores, torch.arange(len(scores)), count)


def by_hand(kernels, num_iters=3):
    """Sinkhorn with a new matrix per normalization, in float64; the rows of the last block."""
    mass = torch.cat([kernel.double() for kernel in kernels])
    for _ in range(num_iters):
        mass = mass / mass.sum(dim=0)
        mass = mass / mass.sum(dim=1, keepdim=True).clamp_min(1e-300)
    return mass[-len(kernels[-1]) :]


def test_balance_reads_parts_and_takes_the_first_sum(monkeypatch):
    module = sys.modules['cotap_mm.ops.sinkhorn']  # the package has a function of this name
    monkeypatch.setattr(module, '_PART_ON_CPU', 3 * CLUSTERS)
    torch.manual_seed(0)
    blocks = [torch.rand(count, CLUSTERS).double() for count in (7, 4, 6)]
    for iters in (1, 2, 3):
        wanted = by_hand(blocks, iters)
        torch.testing.assert_close(balance(blocks, iters), wanted)
        sums = blocks[0].sum(dim=0) + blocks[1].sum(dim=0)
        torch.testing.assert_close(balance(blocks, iters, sums), wanted)
        wrong = balance(blocks, iters, sums * torch.rand(CLUSTERS).double())
        assert not torch.allclose(wrong, wanted), 'the sum that is given is used'


class Reads(TorchDispatchMode):
    """Counts the values of ``features`` that products and sums read."""

    def __init__(self, features):
        super().__init__()
        self.place, self.values = features.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._overloadpacket._qualified_op_name in ('aten::mm', 'aten::mv', 'aten::sum'):
            for each in args:
                if isinstance(each, torch.Tensor) and (
                    each.untyped_storage().data_ptr() == self.place
                ):
                    self.values += each.numel()
        return func(*args, **(kwargs or {}))


def test_an_assignment_reads_the_filled_rows_in_two_rounds_only():
    generator = torch.Generator().manual_seed(0)
    queue, batch = make_queue(), draw(8, generator)
    for filled in (0, 90, 180, 270, 300, 300):
        queue.assign(batch)  # the sums are computed when they are first needed
        with Reads(queue.features) as reads:
            queue.assign(batch)
        # Two products in each of two rounds; none for the first mass and the last scales.
        assert reads.values == 4 * filled * CLUSTERS
        remember(queue, draw(90, generator))


@pytest.mark.parametrize('size', [256, 300, 100, 1000])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_sums_never_drift(size, dtype):
    generator = torch.Generator().manual_seed(0)
    queue = make_queue(size, dtype=dtype)
    for step in range(40):  # goes around several times
        queue._sum_of_rows()
        rows = draw(90, generator)
        if step % 7 == 3:
            rows[2] = float('nan')  # nothing is stored
        remember(queue, rows, count=None if step % 3 else int(37 * step) % 91)
        kept = queue._sum_of_rows()
        fresh = copy.deepcopy(queue)
        fresh._drop_caches()
        assert torch.equal(kept, fresh._sum_of_rows()), 'a resumed run has the same bits'
        wanted = queue.features.double().sum(dim=0)
        torch.testing.assert_close(kept.double(), wanted, rtol=2e-6, atol=0)


def test_after_the_queue_is_full_the_assignment_is_sinkhorns():
    generator = torch.Generator().manual_seed(1)
    queue = make_queue()
    for _ in range(9):
        remember(queue, draw(90, generator))
        batch = draw(12, generator)
        assignment, ready = queue.assign(batch)
        wanted = by_hand([queue.features, queue.to_rows(batch)])
        torch.testing.assert_close(assignment.double(), wanted, rtol=1e-5, atol=1e-7)
        assert ready


def test_changes_of_all_rows_renew_the_sums():
    generator = torch.Generator().manual_seed(2)
    queue, other = make_queue(), make_queue()
    for each in (queue, other):
        remember(each, draw(90, generator))
        each._sum_of_rows()
    wanted = other._sum_of_rows()
    queue.load_state_dict(other.state_dict())
    assert torch.equal(queue._sum_of_rows(), wanted)
    assert queue.double()._sum_of_rows().dtype == torch.float64
    smaller = make_queue(40)
    smaller._sum_of_rows()
    smaller.load_state_dict(other.state_dict())
    torch.testing.assert_close(smaller._sum_of_rows(), smaller.features.sum(dim=0))
    smaller.redistribute([other.state_dict()] * 2, rank=1, world_size=2)
    torch.testing.assert_close(smaller._sum_of_rows(), smaller.features.sum(dim=0))
    assert set(queue.state_dict()) == {'features', 'num_filled', 'cursor', 'row_temperature'}


def test_bfloat16_halves_the_memory_and_changes_assignments_little():
    generator = torch.Generator().manual_seed(3)
    plain, half = make_queue(), make_queue(dtype='bfloat16')
    for _ in range(5):
        scores = draw(90, generator)
        for queue in (plain, half):
            remember(queue, scores)
    assert half.features.dtype == torch.bfloat16
    assert half.features.nbytes * 2 == plain.features.nbytes
    batch = draw(30, generator)
    one, other = (queue.assign(batch)[0] for queue in (plain, half))
    assert one.dtype == other.dtype == torch.float32
    assert not torch.equal(one, other)
    torch.testing.assert_close(other, one, rtol=5e-3, atol=1e-6)
    torch.testing.assert_close(other.sum(dim=1), torch.ones(30))
    torch.testing.assert_close(half.newest_scores(), plain.newest_scores(), rtol=0, atol=3e-4)


@pytest.mark.parametrize('stored, loaded', [('float32', 'bfloat16'), ('bfloat16', 'float32')])
def test_a_state_loads_into_the_other_type(stored, loaded):
    generator = torch.Generator().manual_seed(4)
    before = make_queue(dtype=stored)
    for _ in range(4):
        remember(before, draw(90, generator))
    for size in (300, 60):
        after = make_queue(size, dtype=loaded)
        after.load_state_dict(before.state_dict())
        assert str(after.features.dtype) == f'torch.{loaded}'
        torch.testing.assert_close(
            after.newest_scores(), before.newest_scores()[:size], rtol=0, atol=3e-4
        )
    same = make_queue(dtype=stored)
    same.load_state_dict(before.state_dict())
    batch = draw(8, generator)
    assert torch.equal(same.assign(batch)[0], before.assign(batch)[0])


def test_dtype_is_checked():
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, got 'float16'"):
        make_queue(dtype='float16')
    with pytest.raises(ValueError, match='raise the temperature above 0.025'):
        AssignmentQueue(8, 2, temperature=0.02, per_step=1, dtype='bfloat16')
    assert AssignmentQueue(8, 2, temperature=0.02, per_step=1).features.dtype == torch.float64


def test_norms_of_the_bank_are_computed_when_templates_are_added(monkeypatch):
    torch.manual_seed(0)
    bank, prototypes = TemplateBank(50, channels=2), torch.randn(3, 2, 3, 3, requires_grad=True)
    for step in range(6):
        bank.collect(torch.randn(20, 9, 2), (3, 3), torch.arange(20))
        found = PrototypeEntropyLoss()(prototypes, bank.contents(), bank.norms())
        wanted = PrototypeEntropyLoss()(prototypes, bank.contents())
        assert found.equal(wanted), step
        assert len(bank.norms()) == len(bank) == min(20 * (step + 1), 50)
    assert torch.equal(bank.norms(), bank.contents().flatten(1).norm(dim=1))
    state = {
        key: 2 * value if key == 'features' else value for key, value in bank.state_dict().items()
    }
    before = bank.norms()
    bank.load_state_dict(state)
    assert torch.equal(bank.norms(), 2 * before)
    # Not once in a step: after a push, only the norms of the added templates are computed.
    computed = []
    norm = torch.Tensor.norm
    monkeypatch.setattr(
        torch.Tensor,
        'norm',
        lambda x, *args, **kw: (computed.append(len(x)), norm(x, *args, **kw))[1],
    )
    bank.collect(torch.randn(7, 9, 2), (3, 3), torch.arange(7))
    bank.norms()
    bank.norms()
    assert computed == [7]


def test_a_plain_queue_has_no_caches():
    queue = FeatureQueue(4, (1,))
    queue.push(torch.ones(2, 1))
    assert queue.double().features.dtype == torch.float64 and len(queue) == 2
