"""The methods of the ranking loss agree with each other and hold no P x P tensor."""

from __future__ import annotations

import itertools
import shutil

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from cotap_mm.ops import continuous_average_precision, rank_statistics
from cotap_mm.ops.ranking.average_precision import LONGEST_PAIRWISE, choose_method
from cotap_mm.ops.ranking.rank_pairwise import pairwise_statistics

METHODS = ['pairwise', 'sorted']


def uniform(count, seed=0):
    torch.manual_seed(seed)
    return torch.rand(2, count, dtype=torch.float64) * 2 - 1


def lists():
    """Name -> (pred, target), each a hard case for sorting, counting or summing."""
    p, t = uniform(333)
    rising = torch.linspace(-1, 1, 333, dtype=torch.float64)
    return {
        'random': (p, t),
        'ties in pred': ((p * 3).round() / 3, t),
        'ties in target': (p, (t * 3).round() / 3),
        'ties in both': ((p * 2).round() / 2, (t * 2).round() / 2),
        'all equal': (torch.zeros_like(p), torch.zeros_like(t)),
        'every item twice': (p[:166].repeat(2), t[:166].repeat(2)),
        'right order': (rising, rising),
        'reversed order': (rising, rising.flip(0)),
        'binary targets': (p, (t > 0.8).double()),
        'gaps of exactly tau': ((p * 4).round() / 2, t),
        'far from zero': (p + 1000, t - 500),
        'gaps far below tau': (p / 1000, t / 1000),
        'gaps far above tau': (p * 1000, t * 1000),
        'one outlier': (torch.cat([p[:-1], p.new_tensor([1e3])]), t),
        'zigzag': (rising * (-1) ** torch.arange(333), rising),
    }


def with_gradient(pred, target, method, tau=0.5):
    """Both statistics, and the gradient of a sum with a different weight for each item."""
    pred = pred.clone().requires_grad_()
    wrong, right = rank_statistics(pred, target, tau, method)
    (wrong * torch.linspace(0.5, 2, len(wrong), dtype=wrong.dtype)).sum().backward()
    return wrong.detach(), right, pred.grad


@pytest.mark.parametrize('name', lists())
def test_methods_agree(name):
    found = [with_gradient(*lists()[name], method) for method in METHODS]
    scale = [float(each.abs().max()) for each in found[0]]
    for one, other, most in zip(*found, scale):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12 + 1e-10 * most)
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize('count', [0, 1, 2, 3, 31, 32, 33, 64, 65, 127, 200, 1025])
@pytest.mark.parametrize('tau', [0.02, 0.5])
def test_every_length(count, tau):
    found = [with_gradient(*uniform(count, count), method, tau) for method in METHODS]
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-8)


def test_against_autograd_of_the_formula():
    p, t = uniform(60)
    p.requires_grad_()
    lead = (p[:, None] - p[None, :]) / 0.5
    penalty = torch.where(lead >= 0, (1 - lead).clamp_min(0) ** 2, 1 - 2 * lead)
    expected = ((t[:, None] - t[None, :]).clamp_min(0) * penalty).sum(1)
    slope = torch.linspace(0.5, 2, 60, dtype=torch.float64)
    (grad,) = torch.autograd.grad((expected * slope).sum(), p)
    for method in METHODS:
        wrong, _, own = with_gradient(p.detach(), t, method)
        torch.testing.assert_close(wrong, expected.detach())
        torch.testing.assert_close(own, grad)


@pytest.mark.parametrize('method', METHODS)
def test_gradcheck(method):
    p, t = uniform(80)
    assert torch.autograd.gradcheck(
        lambda x: continuous_average_precision(x, t, method=method), p.requires_grad_()
    )


@pytest.mark.parametrize(
    'dtype, digits',
    [(torch.float16, 1e-5), (torch.bfloat16, 1e-5), (torch.float32, 1e-5), (torch.float64, 1e-12)],
)
def test_types(dtype, digits):
    p, t = (x.to(dtype) for x in uniform(500))
    found = [with_gradient(p, t, method) for method in METHODS]
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    for wrong, right, grad in found:
        assert wrong.dtype == right.dtype == precise and grad.dtype == dtype
    for one, other in zip(*found):
        digits_here = max(digits, 1e-2 if one.dtype in (torch.float16, torch.bfloat16) else 0)
        torch.testing.assert_close(
            one, other, rtol=digits_here, atol=digits_here * float(one.abs().max())
        )


@pytest.mark.parametrize('method', METHODS)
def test_strided_input(method):
    p, t = uniform(400)
    both = torch.stack([p, t], dim=1)  # every second value belongs to the other list
    found = with_gradient(both[:, 0], both[:, 1], method)
    for one, other in zip(found, with_gradient(p, t, method)):
        torch.testing.assert_close(one, other)  # the mean of strided values rounds differently
    backwards = with_gradient(p.flip(0), t.flip(0), method)
    torch.testing.assert_close(backwards[0].flip(0), found[0])


@pytest.mark.slow
def test_sorted_method_is_exact_for_sampled_items_of_a_long_list():
    p, t = uniform(200_000)
    wrong, right = rank_statistics(p, t, 0.5, 'sorted')
    rows = torch.randperm(len(p))[:40]
    expected = pairwise_statistics(p[rows] / 0.5, t[rows], p / 0.5, t)
    torch.testing.assert_close(wrong[rows], expected[0], rtol=1e-9, atol=1e-6)
    assert torch.equal(right[rows].long(), expected[2])


@pytest.mark.slow
def test_a_million():
    p, t = (x.float() for x in uniform(1_000_000))
    p.requires_grad_()
    wrong, right = rank_statistics(p, t, 0.5)
    wrong.sum().backward()
    rows = torch.randperm(len(p))[:20]
    q, u = p.detach().double() / 0.5, t.double()
    expected = pairwise_statistics(q[rows], u[rows], q, u)
    torch.testing.assert_close(wrong[rows].double(), expected[0], rtol=1e-6, atol=1e-3)
    assert torch.equal(right[rows].long(), expected[2])
    assert torch.isfinite(p.grad).all() and p.grad.abs().max() > 0


class Watch(TorchDispatchMode):
    """Records the size of the largest tensor and the total number of values written."""

    def __init__(self):
        super().__init__()
        self.largest = self.written = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in tree_flatten(made)[0]:
            if isinstance(each, torch.Tensor):
                self.largest = max(self.largest, each.numel())
                if 'view' not in str(func) and 'expand' not in str(func):
                    self.written += each.numel()
        return made


def watched(count, method):
    p, t = (x.float() for x in uniform(count))
    with Watch() as watch:
        continuous_average_precision(p.requires_grad_(), t, method=method).backward()
    return watch


@pytest.mark.parametrize('method', METHODS)
def test_no_square_tensor(method):
    assert watched(3000, method).largest <= max(1 << 16, 8 * 3000)


def test_sorted_method_scales_almost_linearly():
    # The number of values written measures work independently of the load of the machine.
    few, many = (watched(count, 'sorted').written for count in (10_000, 80_000))
    assert many / few < 8**1.2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('g++') is None, reason='torch.compile needs a C++ compiler')
def test_compiled_agrees():
    for count in (7, 300):
        p, t = uniform(count)
        for one, other in zip(with_gradient(p, t, 'compiled'), with_gradient(p, t, 'pairwise')):
            torch.testing.assert_close(one, other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('method', ['auto', 'pairwise', 'compiled', 'sorted'])
def test_a_gpu_agrees(method):
    for name, (p, t) in lists().items():
        wanted = with_gradient(p, t, 'pairwise')
        for one, other in zip(with_gradient(p.cuda(), t.cuda(), method), wanted):
            assert one.is_cuda
            torch.testing.assert_close(
                one.cpu(), other, rtol=1e-9, msg=name, atol=1e-12 + 1e-10 * float(other.abs().max())
            )


@pytest.mark.parametrize('method', ['auto', *METHODS])
def test_constants_have_no_effect_and_noise_increases_the_loss(method):
    p, t = uniform(700)
    loss = continuous_average_precision(t, t, method=method)
    torch.testing.assert_close(continuous_average_precision(t + 3, t, method=method), loss)
    assert loss < continuous_average_precision(t + p, t, method=method)
    assert continuous_average_precision(t + p, t, method=method) < (
        continuous_average_precision(-t, t, method=method)
    )


def test_weight():
    p, t = uniform(50)
    weight = (torch.arange(50) < 20).double()
    part = continuous_average_precision(p, t, threshold=-2, weight=weight)
    wrong, right = rank_statistics(p, t, 0.5)
    ratio = (wrong / (right + 1e-5))[:20]
    wanted = t[:20] + 2
    torch.testing.assert_close(part, (wanted * ratio / (1 + ratio)).sum() / (wanted.sum() + 1e-5))


def test_auto_chooses_by_length_and_device():
    cpu = torch.device('cpu')
    assert choose_method(LONGEST_PAIRWISE['cpu'], cpu) == 'pairwise'
    assert choose_method(LONGEST_PAIRWISE['cpu'] + 1, cpu) == 'sorted'


def test_bad_input():
    p, t = uniform(5)
    with pytest.raises(ValueError, match="method must be one of .*, got 'fast'"):
        rank_statistics(p, t, 0.5, 'fast')
    with pytest.raises(ValueError, match='weight must have the shape of target'):
        continuous_average_precision(p, t, weight=torch.ones(4))
    for method, (one, other) in itertools.product(METHODS, [(p, t[:3]), (p[None], t[None])]):
        with pytest.raises(ValueError, match='1-D and have the same length'):
            continuous_average_precision(one, other, method=method)
