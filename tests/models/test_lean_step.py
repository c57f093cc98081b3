"""Keys that change how a step is computed do not change what; a step never waits for the device."""
import copy

import pytest
import torch
from tiny import build_tiny, make_inputs
from torch.utils._python_dispatch import TorchDispatchMode

from cotap_mm.engine import compile_parts
from cotap_mm.models import DINOViT
from cotap_mm.ops import cls_through_block


def warm_model(**backbone):
    """Queues hold something, the bank is full and the prototypes have started."""
    torch.manual_seed(0)
    model = build_tiny(**backbone)
    model.init_weights()
    model.train()
    for step in range(3):
        model.loss(make_inputs(seed=step))
    return model


def losses_and_gradients(model):
    torch.manual_seed(3)
    losses = model.loss(make_inputs(seed=9))
    sum(losses.values()).backward()
    return losses, {name: param.grad for name, param in model.named_parameters()
                    if param.grad is not None}


def assert_same(one, other):
    assert one[0].keys() == other[0].keys() and one[1].keys() == other[1].keys()
    for ours, theirs in zip(one, other):
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, msg=name,
                                       atol=1e-5 * float(theirs[name].abs().max()))


@pytest.fixture(scope='module')
def plain():
    return losses_and_gradients(warm_model())


@pytest.mark.parametrize('options', [
    dict(with_cp=True), dict(with_cp='mlp'), dict(channels_last=True), dict(fused_attention=False)])
def test_backbone_keys_change_nothing(plain, options):
    assert_same(losses_and_gradients(warm_model(**options)), plain)


@pytest.mark.parametrize('with_cp, parts', [(False, 2 + 2), ('mlp', 3 * 2 + 2)])
def test_compiled_parts_change_nothing(plain, with_cp, parts):
    model = warm_model(with_cp=with_cp)
    assert compile_parts(model, backend='aot_eager', dynamic=False) == 2 * parts
    names = set(model.state_dict())
    assert_same(losses_and_gradients(model), plain)
    assert names == set(warm_model().state_dict())


@pytest.mark.parametrize('with_cp, runs', [(False, 1), ('mlp', 2), (True, 2)])
def test_checkpointing_runs_the_mlp_again(with_cp, runs):
    model = warm_model(with_cp=with_cp)
    calls = []
    block = model.backbone.layers[1]
    block.ffn.layers[0].register_forward_hook(lambda *_: calls.append(1))
    tokens = torch.randn(2, 5, block.embed_dims, requires_grad=True)
    model.backbone.run_block(block, tokens).sum().backward()
    assert len(calls) == runs
    with pytest.raises(ValueError, match="with_cp must be False, True or 'mlp', got 'all'"):
        DINOViT(with_cp='all')


def test_plain_attention_holds_its_weights():
    """Otherwise ``fused_attention`` compares a thing with itself."""
    seen = []
    for fused in (True, False):
        vit = DINOViT(arch=dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=16),
                      img_size=16, patch_size=8, fused_attention=fused)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            vit(torch.randn(1, 3, 16, 16))
        seen.append('aten::scaled_dot_product_attention' in {e.key for e in profiler.events()})
    assert seen == [True, False]


def test_bfloat16_is_close(plain):
    model = warm_model()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model.loss(make_inputs(seed=9))
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, plain[0][name], rtol=0.05, atol=0.02, msg=name)


def test_cls_alone_through_the_last_block():
    torch.manual_seed(0)
    vit = DINOViT(arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
                  img_size=16, patch_size=8)
    vit = vit.double()
    for param in vit.parameters():
        torch.nn.init.normal_(param)
    tokens = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    wanted, got = vit.last_block(tokens)[:, 0], cls_through_block(tokens, vit.last_block)
    torch.testing.assert_close(got, wanted)
    slope = torch.randn_like(got)
    for one, other in zip(*(torch.autograd.grad(x, [tokens, *vit.last_block.parameters()], slope)
                            for x in (got, wanted))):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class NoWaiting(TorchDispatchMode):
    """Raises where a GPU would make the host wait: values read, or shapes that depend on them."""

    waits = ('_local_scalar_dense', 'nonzero', 'masked_select', 'aten.equal', 'unique',
             'repeat_interleave.Tensor')

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        by_mask = name.startswith(('aten.index.', 'aten.index_put')) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        if by_mask or any(wait in name for wait in self.waits):
            raise AssertionError(f'{name} waits for the device')
        return func(*args, **(kwargs or {}))


def test_the_watch_sees_what_waits():
    mask = torch.tensor([True, False])
    for work in (lambda: mask.nonzero(), lambda: mask[0].item(), lambda: torch.ones(2)[mask],
                 lambda: bool(mask.any())):
        with NoWaiting(), pytest.raises(AssertionError, match='waits'):
            work()


def test_a_step_never_waits_for_the_device(monkeypatch):
    model = warm_model()
    # On a CPU, and only there, losses look for NaN.
    for module in ('cluster_assignment_loss', 'patch_ranking_loss', 'prototype_entropy_loss'):
        monkeypatch.setattr(f'cotap_mm.models.losses.{module}.check_finite', lambda *_: None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
    inputs = make_inputs(seed=4)
    with NoWaiting():
        sum(model.loss(inputs).values()).backward()
        model.teacher.update(model.student, 0.9)
    optimizer.step()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_a_step_never_waits_for_a_real_device():
    model = warm_model().cuda()
    inputs = {name: {key: value.cuda() for key, value in views.items()}
              for name, views in make_inputs(seed=4).items()}
    for _ in range(2):
        sum(model.loss(copy.copy(inputs)).values()).backward()
    torch.cuda.set_sync_debug_mode('error')
    try:
        sum(model.loss(inputs).values()).backward()
        model.teacher.update(model.student, 0.9)
    finally:
        torch.cuda.set_sync_debug_mode('default')
