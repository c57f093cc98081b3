"""A step on a CPU is bit-identical in every run, with any number of threads."""

from __future__ import annotations

import pytest
import torch

from cotap_mm.engine.resume.determinism import deterministic_on_cpu
from cotap_mm.models.modules import PatchPairSampler
from tests.helpers.tiny import build_tiny, make_inputs

#: Gradients that several threads sum in nondeterministic order.
UNORDERED = {
    'IndexBackward0',
    'IndexPutBackward0',
    'EmbeddingBagBackward0',
    'PutBackward0',
    'TakeBackward0',
    'MaskedSelectBackward0',
}


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_gradients_of_the_pairs(two_threads):
    torch.manual_seed(0)
    student = torch.randn(256, 1, 96, 4, 4, requires_grad=True)
    foreground = torch.ones(256, 1, 4, 4)
    sampler = PatchPairSampler(pool_sizes=(4,), topk=16, num_negatives=20)

    def gradient():
        torch.manual_seed(1)
        [(pred, *_)] = sampler(student, student.detach(), foreground)
        weight = torch.linspace(-1, 1, len(pred))
        return torch.autograd.grad((pred * weight).sum(), student)[0]

    first = gradient()
    assert first.abs().max() > 0
    for _ in range(10):
        assert torch.equal(gradient(), first)


def test_all_operators_of_a_step():
    losses = build_tiny()(make_inputs(), mode='loss')
    waiting, seen = [value.grad_fn for value in losses.values() if value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [other for other, _ in node.next_functions if other is not None]
    names = {node.name() for node in seen}
    assert 'IndexSelectBackward0' in names and not names & UNORDERED


def test_deterministic_while_training_on_a_cpu():
    model = torch.nn.Linear(1, 1)
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic_on_cpu(model):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic_on_cpu(model.to('meta')):
        assert not torch.are_deterministic_algorithms_enabled()
