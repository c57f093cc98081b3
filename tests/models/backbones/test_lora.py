"""LoRA: nothing changes at the start, the update is seen everywhere, and files hold the result."""

from __future__ import annotations

import copy

import pytest
import torch
from mmpretrain.models.peft.lora import LoRALinear as TheirLoRALinear
from torch import nn

from cotap_mm.engine.optim.param_groups import CoTAPOptimWrapperConstructor
from cotap_mm.models import CoTAPViT, DINOViT
from cotap_mm.models.backbones.lora import LoRALinear, LoRAViT
from cotap_mm.registry import MODELS, build
from cotap_mm.weights import detect_checkpoint, load_pretrained
from tests.helpers.tiny import CONFIG, build_tiny, make_inputs

ARCHS = {
    'plain': dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    'modern': dict(
        embed_dims=16,
        num_layers=2,
        num_heads=2,
        feedforward_channels=32,
        ffn='swiglu',
        qk_norm=True,
        layer_scale=True,
        num_registers=2,
        rope=dict(theta=100.0),
    ),
}
LORA = dict(type='LoRAViT', lora=dict(rank=3))


def pair(name='plain', **lora):
    """The same weights in a plain network and in one with LoRA."""
    torch.manual_seed(0)
    plain = DINOViT(arch=ARCHS[name], img_size=32, patch_size=8)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    adapted = LoRAViT(lora=dict(rank=3, **lora), arch=ARCHS[name], img_size=32, patch_size=8)
    adapted.load_state_dict(plain.state_dict(), strict=False)
    plain.eval(), adapted.eval()
    return plain, adapted


def move(model):
    """Give all updates random values."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if '.lora_' in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape))
    return model


@pytest.mark.parametrize('name', ARCHS)
def test_network_starts_as_the_base_bit_for_bit(name):
    plain, adapted = pair(name)
    images = torch.randn(2, 3, 32, 32)
    entering, leaving, grid = adapted.forward_tokens(images)
    for got, wanted in zip((entering, leaving), plain.forward_tokens(images)):
        assert got.equal(wanted)
    assert adapted.cls_attention(entering, grid).equal(plain.cls_attention(entering, grid))
    assert adapted.leaving_cls(entering, grid).equal(plain.leaving_cls(entering, grid))


@pytest.mark.parametrize('name', ARCHS)
def test_merged_weights_compute_the_same(name):
    """Filter and CLS attention included; the base would not."""
    _, adapted = pair(name)
    move(adapted)
    merged = CoTAPViT(arch=ARCHS[name], img_size=32, patch_size=8, num_prototypes=4)
    base = copy.deepcopy(merged)
    state = adapted.state_dict()
    merged.load_state_dict({n: v for n, v in state.items() if '.lora_' not in n}, strict=False)
    bases = {n.replace('lora_base', 'weight'): v for n, v in state.items() if 'lora_base' in n}
    base.load_state_dict({**merged.state_dict(), **bases})
    images = torch.randn(2, 3, 32, 40)
    entering, leaving, grid = adapted.forward_tokens(images)
    results = {}
    for kind, vit in dict(adapted=adapted, merged=merged, base=base).items():
        vit.eval()
        entering, leaving, grid = vit.forward_tokens(images)
        results[kind] = [
            leaving,
            vit.cls_attention(entering, grid),
            vit.leaving_cls(entering, grid),
            *merged.neck(leaving, grid, vit.last_block),
        ]
    for got, wanted, other in zip(*(results[k] for k in ('adapted', 'merged', 'base'))):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6 * (1 + wanted.abs().max().item()))
        assert not torch.allclose(got, other, rtol=0, atol=1e-3)


def test_layer_equals_the_one_of_mmpretrain():
    torch.manual_seed(0)
    plain = nn.Linear(6, 9)
    ours, theirs = LoRALinear(plain, 2, 5.0), TheirLoRALinear(plain, alpha=5, rank=2)
    with torch.no_grad():
        ours.lora_up.normal_()
        theirs.lora_up.weight.copy_(ours.lora_up)
        theirs.lora_down.weight.copy_(ours.lora_down)
    x = torch.randn(4, 6)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    'options, adapted, trained',
    [({}, {0, 1}, set()), (dict(frozen_stages=1), {0}, {1})],
)
def test_what_is_trained(options, adapted, trained):
    vit = LoRAViT(
        lora=dict(rank=2, targets=['qkv', 'mlp']), arch=ARCHS['plain'], img_size=32, **options
    )
    vit.train()
    learning = {name for name, p in vit.named_parameters() if p.requires_grad}
    updates = {name for name in learning if '.lora_' in name}
    assert {int(name.split('.')[1]) for name in updates} == adapted
    assert all('.attn.qkv.' in name or '.ffn.' in name for name in updates)
    assert {int(name.split('.')[1]) for name in learning - updates} == trained


def test_training_changes_updates_only_and_stores_no_other_optimizer_state():
    model = build_tiny(**LORA)
    model.train()
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
    before = {name: value.clone() for name, value in model.backbone.named_parameters()}
    constructor = CoTAPOptimWrapperConstructor(dict(optimizer=dict(type='AdamW', lr=0.1)))
    optimizer = constructor(model)
    for seed in range(2):  # the second matrix is zero at first, so the first one has no gradient
        losses = model.loss(make_inputs(seed=seed))
        optimizer.update_params(sum(value for name, value in losses.items() if 'loss' in name))
    changed = {n for n, value in model.backbone.named_parameters() if not before[n].equal(value)}
    assert changed == {name for name in before if '.lora_' in name}
    state = sum(s['exp_avg'].numel() for s in optimizer.optimizer.state.values())
    full = CoTAPOptimWrapperConstructor(dict(optimizer=dict(type='AdamW', lr=0.1)))(build_tiny())
    every = sum(p.numel() for group in full.optimizer.param_groups for p in group['params'])
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert state <= trained < every


def test_gradients_reach_the_updates_through_filter_and_attention():
    """With a loss on the filter alone, the last block's keys and values get gradients."""
    model = move(build_tiny(**LORA))
    images = torch.randn(1, 3, 32, 32)
    _, leaving, grid = model.backbone.forward_tokens(images)
    cls, patches = model.neck(leaving.detach(), grid, model.backbone.last_block)
    (cls.square().sum() + patches.pow(3).sum()).backward()
    qkv = model.backbone.last_block.attn.qkv
    assert qkv.lora_up.grad.abs().sum() > 0 and qkv.weight.grad is None


def test_checkpoint_resumes_exactly_and_loads_merged(tmp_path):
    torch.manual_seed(1)
    model = move(build_tiny(**LORA))
    path = tmp_path / 'iter_1.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=CONFIG)), path)
    other = build_tiny(**LORA)
    other.load_state_dict(torch.load(path)['state_dict'])
    for got, wanted in zip(other.parameters(), model.parameters()):
        assert got.equal(wanted)
    detected = detect_checkpoint(path)
    assert not any('lora' in name for name in detected.tensors)
    assert not detected.report.unexpected
    plain = build_tiny()
    load_pretrained(plain, detected)
    images = torch.randn(2, 3, 32, 32)
    for got, wanted in zip(plain.encode(images), model.encode(images)):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    for got, wanted in zip(plain.encode(images, 'teacher'), model.encode(images, 'teacher')):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    again = build_tiny(**LORA)  # starts from the merged weights
    load_pretrained(again, detected)
    for got, wanted in zip(again.encode(images), plain.encode(images)):
        assert got.equal(wanted)


def test_teacher_follows_the_updates():
    model = build_tiny(**LORA)
    move(model.backbone)
    before = copy.deepcopy(model.teacher.state_dict())
    model.teacher.update(model.student, 0.75)
    name = 'backbone.layers.1.ffn.layers.1.lora_down'
    mine = dict(model.backbone.named_parameters())[name.removeprefix('backbone.')]
    wanted = 0.75 * before[name] + 0.25 * mine
    torch.testing.assert_close(model.teacher.state_dict()[name], wanted)
    base = 'backbone.layers.1.ffn.layers.1.lora_base'
    assert model.teacher.state_dict()[base].equal(before[base])


def test_update_is_merged_in_full_precision_under_autocast():
    layer = LoRALinear(nn.Linear(8, 8), 4, 4.0)
    nn.init.normal_(layer.lora_up)
    exact = layer.effective_weight
    with torch.autocast('cpu', torch.bfloat16):
        assert layer.effective_weight.equal(exact)
        assert layer(torch.randn(2, 8)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    'lora, options, message',
    [
        (dict(), {}, r'lora.rank must be an integer >= 1, got None'),
        (dict(rank=17), {}, r'lora.rank must be at most the width 16, got 17'),
        (dict(rank=2, alpha=0), {}, r'lora.alpha must be a number > 0, got 0'),
        (dict(rank=2, targets=['key']), {}, r'lora.targets must be some of qkv, proj, mlp'),
        (dict(rank=2), dict(frozen_stages=0), r'frozen_stages must be in 1..2 \(-1 for all\)'),
    ],
)
def test_invalid_options(lora, options, message):
    with pytest.raises(ValueError, match=message):
        build(MODELS, dict(type='LoRAViT', lora=lora, arch=ARCHS['plain'], img_size=32, **options))
