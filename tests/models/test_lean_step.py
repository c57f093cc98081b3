"""Performance options do not change results; a step never synchronizes with the device."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from cotap_mm.engine import CompileHook, compile_networks, compile_parts
from cotap_mm.models import DINOViT, PatchPairSampler
from cotap_mm.models.backbones import checkpointing
from cotap_mm.models.modules import AssignmentQueue
from cotap_mm.ops import cls_through_block, spherical_kmeans
from tests.helpers.no_waiting import NoWaiting, OnAnotherDevice
from tests.helpers.tiny import MODERN, build_tiny, make_inputs


def warm_model(**backbone):
    """Model with filled queues, a full bank and started prototypes."""
    torch.manual_seed(0)
    model = build_tiny(**backbone)
    model.init_weights()
    model.train()
    for step in range(3):
        model.loss(make_inputs(seed=step))
    return model


def losses_and_gradients(model, dtype=torch.float32):
    torch.manual_seed(3)
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=dtype != torch.float32):
        losses = model.loss(make_inputs(seed=9))
    sum(losses.values()).backward()
    return losses, {
        name: param.grad for name, param in model.named_parameters() if param.grad is not None
    }


def assert_same(one, other):
    assert one[0].keys() == other[0].keys() and one[1].keys() == other[1].keys()
    for ours, theirs in zip(one, other):
        for name in ours:
            torch.testing.assert_close(
                ours[name],
                theirs[name],
                rtol=1e-4,
                msg=name,
                atol=1e-5 * float(theirs[name].abs().max()),
            )


@pytest.fixture(scope='module')
def plain():
    return losses_and_gradients(warm_model())


@pytest.fixture(scope='module')
def modern():
    """The same of a network with registers, rotary positions and gated MLPs."""
    return losses_and_gradients(warm_model(**MODERN))


@pytest.mark.parametrize(
    'options',
    [
        dict(with_cp=True),
        dict(with_cp='mlp'),
        dict(with_cp='products'),
        dict(channels_last=True),
        dict(fused_attention=False),
    ],
)
def test_backbone_keys_change_nothing(plain, options):
    assert_same(losses_and_gradients(warm_model(**options)), plain)


@pytest.mark.parametrize(
    'options',
    [
        *(dict(with_cp=mode) for mode in (True, 'mlp', 'products')),
        dict(fused_attention=False),
    ],
)
def test_backbone_keys_change_nothing_with_registers_and_rope(modern, options):
    assert_same(losses_and_gradients(warm_model(**MODERN, **options)), modern)


@pytest.mark.slow
@pytest.mark.parametrize('is_modern', [False, True])
@pytest.mark.parametrize('with_cp, parts', [(False, 2 + 2), ('mlp', 3 * 2 + 2)])
def test_compiled_parts_change_nothing(plain, modern, with_cp, parts, is_modern):
    torch._dynamo.reset()  # other tests count toward its limit of compilations
    options = dict(MODERN if is_modern else {}, with_cp=with_cp)
    model = warm_model(**options)
    # A part that does not compile as a whole is an error.
    assert compile_parts(model, backend='aot_eager', dynamic=False, fullgraph=True) == 2 * parts
    names = set(model.state_dict())
    assert_same(losses_and_gradients(model), modern if is_modern else plain)
    assert names == set(warm_model(**options).state_dict())


@pytest.mark.slow
@pytest.mark.parametrize('with_cp', [False, True, 'mlp', 'products'])
def test_a_backbone_is_one_graph(with_cp):
    """Registers, rotary positions and activation checkpointing do not break it."""
    vit, images = warm_model(**MODERN, with_cp=with_cp).backbone, torch.randn(2, 3, 32, 32)
    found = []
    for forward in (
        vit.forward_tokens,
        torch.compile(vit.forward_tokens, backend='aot_eager', fullgraph=True, dynamic=False),
    ):
        leaving = forward(images)[1]
        params = [param for param in vit.parameters() if param.requires_grad]
        found.append([leaving, *torch.autograd.grad(leaving.square().sum(), params)])
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('is_modern', [False, True])
@pytest.mark.parametrize('with_cp', [False, True])
def test_compiled_networks_change_nothing(plain, modern, with_cp, is_modern):
    """Each forward pass is one graph, from crops to scores, that all steps use."""
    torch._dynamo.reset()
    graphs = []

    def count(module, inputs):
        graphs.append(len(list(module.graph.nodes)))
        return module.forward

    model = warm_model(**(MODERN if is_modern else {}), with_cp=with_cp)
    names = set(model.state_dict())
    assert compile_networks(model, backend=count, dynamic=False, fullgraph=True) == 3
    assert_same(losses_and_gradients(model), modern if is_modern else plain)
    assert len(graphs) == 3 and min(graphs) > 50
    losses_and_gradients(model)
    assert len(graphs) == 3  # nothing is compiled again
    assert set(model.state_dict()) == names


@pytest.mark.slow
@pytest.mark.parametrize('is_modern', [False, True])
def test_the_hook_compiles_whole_networks_in_bfloat16(plain, modern, is_modern):
    """The default on a GPU. The backend runs the traced operators as they are, so results match."""
    torch._dynamo.reset()
    graphs = []

    def keep(module, inputs):
        graphs.append(module)
        return module.forward

    options = MODERN if is_modern else {}
    model = warm_model(**options)
    hook, runner = (
        CompileHook('networks', backend=keep, fullgraph=True),
        SimpleNamespace(model=model),
    )
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    got = losses_and_gradients(model, torch.bfloat16)
    assert_same(got, losses_and_gradients(warm_model(**options), torch.bfloat16))
    assert len(graphs) == 3 and all('bfloat16' in graph.code for graph in graphs)
    in_full = (modern if is_modern else plain)[0]
    assert 0 < max((value - in_full[name]).abs() for name, value in got[0].items()) < 0.1


def matrix_products(work):
    """Number of matrix products and attentions, and of other operators, in forward and backward."""
    seen = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    with Count():
        work()
    products = [f for f in seen if f in checkpointing._products()]
    return len(products), len(seen) - len(products)


def test_products_are_not_recomputed():
    """``with_cp='products'`` repeats everything else in the backward pass."""
    block = warm_model().backbone.layers[1]
    tokens = torch.randn(2, 5, block.embed_dims, requires_grad=True)
    found = {}
    for mode in (False, True, 'products'):

        def step(mode=mode):
            checkpointing.run_block(mode, block, tokens, None).sum().backward()

        step()  # MKL and the like are ready
        found[mode] = matrix_products(step)
    assert found['products'][0] == found[False][0] < found[True][0]
    assert found[False][1] < found['products'][1]


def test_an_unknown_recomputation_is_reported(monkeypatch):
    with pytest.raises(ValueError, match="must be False, True, 'mlp' or 'products', got 'all'"):
        DINOViT(with_cp='all')
    monkeypatch.delattr(checkpointing.torch_checkpoint, 'CheckpointPolicy')
    with pytest.raises(ValueError, match="'products' requires PyTorch 2.4, this is "):
        DINOViT(with_cp='products')


@pytest.mark.parametrize('with_cp, runs', [(False, 1), ('mlp', 2), (True, 2), ('products', 2)])
def test_checkpointing_runs_the_mlp_again(with_cp, runs):
    model = warm_model(with_cp=with_cp)
    calls = []
    block = model.backbone.layers[1]
    block.ffn.layers[0][0].register_forward_hook(lambda *_: calls.append(1))
    tokens = torch.randn(2, 5, block.embed_dims, requires_grad=True)
    model.backbone.run_block(block, tokens).sum().backward()
    assert len(calls) == runs


@pytest.mark.parametrize('options', [{}, dict(num_registers=2, rope=dict(theta=50.0))])
def test_plain_attention_holds_its_weights(options):
    """Otherwise the test of ``fused_attention`` would compare a model with itself."""
    seen = []
    for fused in (True, False):
        vit = DINOViT(
            arch=dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=16),
            img_size=16,
            patch_size=8,
            fused_attention=fused,
            **options,
        )
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            vit(torch.randn(1, 3, 16, 16))
        seen.append('aten::scaled_dot_product_attention' in {e.key for e in profiler.events()})
    assert seen == [True, False]


def test_bfloat16_is_close(plain):
    model = warm_model()
    torch.manual_seed(3)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model.loss(make_inputs(seed=9))
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, plain[0][name], rtol=0.05, atol=0.02, msg=name)
    sum(losses.values()).backward()
    for name, param in model.named_parameters():
        if param.grad is not None:
            one, other = param.grad.flatten(), plain[1][name].flatten()
            assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.95, name


def test_sums_and_comparisons_stay_in_full_precision():
    torch.manual_seed(0)
    queue = AssignmentQueue(64, 8, temperature=0.05, per_step=64)
    queue.remember(torch.rand(64, 8) * 2 - 1, torch.arange(64))
    batch, scores = torch.rand(16, 8) * 2 - 1, torch.randn(4, 2, 6, 4, 4)

    def work():
        torch.manual_seed(1)
        assignment, _ = queue.assign(batch)
        centers = spherical_kmeans(torch.randn(40, 6), 3)
        ((pred, target, _),) = PatchPairSampler((4,), topk=None)(scores, scores + 0.1, scores)
        return assignment, centers, pred, target

    wanted = work()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = work()
    for one, other in zip(got, wanted):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_cls_alone_through_the_last_block():
    torch.manual_seed(0)
    vit = DINOViT(
        arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
        img_size=16,
        patch_size=8,
    )
    vit = vit.double()
    for param in vit.parameters():
        torch.nn.init.normal_(param)
    tokens = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    wanted, got = vit.last_block(tokens)[:, 0], cls_through_block(tokens, vit.last_block)
    torch.testing.assert_close(got, wanted)
    slope = torch.randn_like(got)
    for one, other in zip(
        *(
            torch.autograd.grad(x, [tokens, *vit.last_block.parameters()], slope)
            for x in (got, wanted)
        )
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_no_waiting_detects_what_waits():
    mask = torch.tensor([True, False])
    for work in (
        lambda: mask.nonzero(),
        lambda: mask[0].item(),
        lambda: torch.ones(2)[mask],
        lambda: bool(mask.any()),
    ):
        with NoWaiting(), pytest.raises(AssertionError, match='waits'):
            work()


def test_a_step_never_waits_for_the_device(monkeypatch):
    model = warm_model()
    # On a CPU only, losses check for NaN.
    for module in ('cluster_assignment_loss', 'patch_ranking_loss', 'prototype_entropy_loss'):
        monkeypatch.setattr(f'cotap_mm.models.losses.{module}.check_finite', lambda *_: None)
    for queue in (model.patch_queue, model.cls_queue):  # on a CPU only, filled rows are counted
        queue._was_full = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
    inputs = make_inputs(seed=4)
    with NoWaiting():
        sum(model.loss(inputs).values()).backward()
        model.teacher.update(model.student, 0.9)
    optimizer.step()


def test_on_another_device_detects_what_waits():
    there = torch.ones(4, 5, device='meta')
    for work in (
        lambda: there[:, [0, 2]],
        lambda: there[torch.arange(2)],
        lambda: there + torch.ones(5),
        lambda: torch.ones(5).to('meta'),
        lambda: there * torch.tensor([2.0], device='meta'),
    ):
        with OnAnotherDevice(there), pytest.raises(AssertionError, match='waits|mixes'):
            work()
    with OnAnotherDevice(there):
        there[:, 1:] + torch.ones(4).to('meta', non_blocking=True)
        there[torch.arange(2, device='meta')] * 2


@pytest.mark.slow
@pytest.mark.parametrize('method', ['pairwise', 'sorted'])
@pytest.mark.parametrize('topk', [3, None])
def test_a_step_never_waits_for_numbers_from_the_host(monkeypatch, method, topk):
    model = warm_model()
    model.losses['patch_ranking'].method, model.pairs.topk = method, topk
    model = model.to('meta')
    inputs = {
        name: {key: value.to('meta') for key, value in views.items()}
        for name, views in make_inputs(seed=4).items()
    }
    there = [*model.parameters(), *model.buffers(), *tree_flatten(inputs)[0]]
    monkeypatch.setattr(torch, 'autocast', lambda *_, **__: nullcontext())  # does not support meta
    with OnAnotherDevice(*there):
        sum(model.loss(inputs).values()).backward()
        model.teacher.update(model.student, 0.9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('method', ['auto', 'sorted'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_step_never_waits_for_a_real_device(method, dtype):
    model = warm_model().cuda()
    model.losses['patch_ranking'].method = method
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    inputs = {
        name: {key: value.cuda() for key, value in views.items()}
        for name, views in make_inputs(seed=4).items()
    }

    def step():
        with torch.autocast('cuda', dtype=dtype, enabled=dtype != torch.float32):
            total = sum(model.loss(inputs).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        model.teacher.update(model.student, 0.9)

    for _ in range(2):  # compiles, and caches what does not change later
        step()
    torch.cuda.set_sync_debug_mode('error')
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert all(torch.isfinite(param).all() for param in model.parameters())
