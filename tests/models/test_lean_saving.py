"""Norms and activations are not saved twice; values and gradients stay the same to the bit."""

from __future__ import annotations

import pytest
import torch

from cotap_mm.models import DINOViT, LoRAViT, ObjectAwareFilter, PrototypeHead
from cotap_mm.models import lean_saving as module
from cotap_mm.models.lean_saving import save_source
from cotap_mm.planning.trace import MemoryMeter

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=64)
MODERN = dict(num_registers=2, rope=dict(theta=50.0))
KINDS = {
    'plain': lambda: DINOViT(ARCH, img_size=16, patch_size=4),
    'registers and rope': lambda: DINOViT(ARCH, img_size=16, patch_size=4, **MODERN),
    'gated': lambda: DINOViT({**ARCH, 'ffn': 'swiglu'}, img_size=16, patch_size=4),
    'scaled': lambda: DINOViT(
        {**ARCH, 'layer_scale': True}, img_size=16, patch_size=4, drop_path_rate=0.5
    ),
    'dropout': lambda: DINOViT(ARCH, img_size=16, patch_size=4, drop_rate=0.3),
    'lora': lambda: LoRAViT(arch=ARCH, img_size=16, patch_size=4, lora=dict(rank=2)),
    'lora with rope': lambda: LoRAViT(
        arch=ARCH, img_size=16, patch_size=4, lora=dict(rank=2), **MODERN
    ),
}


def results(network, images, autocast=False):
    """Output and all gradients."""
    torch.manual_seed(1)
    network.zero_grad()
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
        out = network.forward_tokens(images)[1]
        loss = out.float().pow(3).sum()
    loss.backward()
    grads = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert len(grads) > 5
    return dict(out=out, **grads)


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_gradients_are_the_same_to_the_bit(kind, autocast):
    torch.manual_seed(0)
    vit, images = KINDS[kind]().train(), torch.randn(3, 3, 16, 16)
    for param in vit.parameters():
        torch.nn.init.normal_(param, std=0.1)
    found = results(vit, images, autocast)
    for block in vit.layers:
        assert block.saves_less
        block.saves_less = False
    wanted = results(vit, images, autocast)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def saved_bytes(work, *known):
    """Bytes that are kept for the backward pass."""
    with MemoryMeter(known) as meter:
        out = work()
        kept = meter.now.of(1)
    out.sum().backward()
    return kept


def test_a_block_keeps_less():
    torch.manual_seed(0)
    block = KINDS['plain']().layers[0]
    tokens, unit = torch.randn(4, 17, 16, requires_grad=True), 4 * 17 * 16 * 4
    kept = []
    for block.saves_less in (False, True):
        kept.append(saved_bytes(lambda: block(tokens), tokens) / unit)
    # Two normalized inputs of d channels and an activation of 4 d are not kept.
    assert kept[0] - kept[1] == pytest.approx(6, abs=0.1)
    assert kept[1] < 0.7 * kept[0]


def test_a_filter_keeps_less():
    torch.manual_seed(0)
    block, neck = KINDS['plain']().layers[0], ObjectAwareFilter(16, num_prototypes=4)
    patches, unit = torch.randn(4, 16, 16, requires_grad=True), 4 * 16 * 16 * 4
    found, kept = [], []
    for block.saves_less in (False, True):
        block.zero_grad()
        kept.append(saved_bytes(lambda: neck.filter_patches(patches, (4, 4), block), patches))
        found.append([param.grad.clone() for param in block.ffn.parameters()])
    # A normalized input of d channels and an activation of 4 d are not kept.
    assert (kept[0] - kept[1]) / unit == pytest.approx(5, abs=0.1)
    assert all(map(torch.equal, *found))


def test_a_head_keeps_less(monkeypatch):
    torch.manual_seed(0)
    head, features = PrototypeHead(8, 4, hidden_channels=64, out_channels=4), torch.randn(50, 8)
    found, kept = [], []
    for compiling in (False, True):  # as under torch.compile, nothing changes
        monkeypatch.setattr(module, 'is_compiling', lambda value=compiling: value)
        head.zero_grad()
        kept.append(saved_bytes(lambda: head(features), features) / (50 * 64 * 4))
        found.append([param.grad.clone() for param in head.parameters()])
    assert kept[1] - kept[0] == pytest.approx(2, abs=0.1)  # of 4, two per hidden layer
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize('with_cp', [True, 'mlp'])
def test_recomputed_blocks_save_as_before(with_cp):
    vit = DINOViT(ARCH, img_size=16, patch_size=4, with_cp=with_cp)
    assert not any(block.saves_less for block in vit.layers)
    vit.with_cp = False
    assert all(block.saves_less for block in vit.layers)


def test_other_tensors_are_saved_as_usual():
    """A part of the result, or a copy in another type, is not the result itself."""
    weight = torch.randn(3, 4, requires_grad=True)
    source = torch.randn(5, 4, requires_grad=True)
    for consumer in (
        lambda x: x[:2] @ weight.T,
        lambda x: x.double() @ weight.double().T,
        lambda x: x.T.contiguous().T @ weight.T,
        lambda x: x.T.unflatten(1, (5, 1)).flatten(1).T @ weight.T,
        lambda x: x * x,
    ):
        grads = [
            torch.autograd.grad(out.sum(), [source, weight], allow_unused=True)
            for out in (save_source(torch.tanh, source, consumer), consumer(torch.tanh(source)))
        ]
        for one, other in zip(*grads):
            assert one is other is None or torch.equal(one, other)
