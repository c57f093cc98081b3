"""The downstream backbone: same features as in pre-training, sizes, freezing, windows, depths."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch
from mmengine.registry import DefaultScope

from cotap_mm.models import CoTAPViT, DINOViT
from cotap_mm.registry import MODELS, option_of
from cotap_mm.weights import load_pretrained
from tests.helpers.tiny import build_tiny

ARCH = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)


def small(**options):
    options = {**dict(arch=ARCH, img_size=32, patch_size=8, num_prototypes=2), **options}
    torch.manual_seed(0)
    model = CoTAPViT(**options)
    model.init_weights()
    if model.neck is not None:  # visible differences between tokens
        torch.nn.init.normal_(model.neck.prototypes)
    torch.nn.init.normal_(model.cls_token)
    return model


@pytest.mark.parametrize('branch', ['student', 'teacher'])
@pytest.mark.parametrize('size', [(32, 32), (24, 56), (72, 40)])
def test_equal_to_the_pre_training_network(branch, size):
    """Features of student and teacher of a training checkpoint, on any grid."""
    torch.manual_seed(1)
    algorithm = build_tiny()
    algorithm.init_weights()
    for network in (algorithm, algorithm.teacher):
        for value in network.parameters():
            torch.nn.init.normal_(value, std=0.2)
    vit = CoTAPViT(
        arch=dict(ARCH, num_layers=2), img_size=32, patch_size=8, num_prototypes=2, out_type='raw'
    )
    report = load_pretrained(vit, dict(state_dict=algorithm.state_dict()), network=branch)
    assert not report.missing
    images = torch.randn(2, 3, *size)
    algorithm.eval(), vit.eval()
    with torch.no_grad():
        cls, patches = algorithm.encode(images, branch)
        (raw,) = vit(images)
        vit.out_type = 'featmap'
        (featmap,) = vit(images)
        vit.out_type = 'cls_token'
        (token,) = vit(images)
    torch.testing.assert_close(featmap, patches, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(token, cls, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(raw[:, 0], cls, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(raw[:, 1:], patches.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)


def test_arguments_of_its_own_and_of_its_parent():
    """At most 8 of its own; those of the parent are passed on, with or without their names."""
    parameters = inspect.signature(CoTAPViT.__init__).parameters.values()
    own = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    assert len(own) == 8
    named, plain = small(), CoTAPViT(ARCH, 8, img_size=32, num_prototypes=2)
    plain.load_state_dict(named.state_dict())
    assert plain.patch_size == 8 and option_of(MODELS, dict(type='CoTAPViT'), 'patch_size') == 16
    with pytest.raises(TypeError, match='window_sice'):
        small(window_sice=2)


def test_levels_and_their_channels():
    model = small(out_indices=(0, 1, -2, -1))
    levels = model(torch.randn(2, 3, 33, 50))  # padded to 5 x 7 patches
    assert [tuple(level.shape) for level in levels] == [
        (2, channels, 5, 7) for channels in (16, 16, 16, 32)
    ]
    assert model.out_channels == [16, 16, 16, 32]


def test_without_filter_it_is_the_plain_vit():
    model, plain = (
        small(use_filter=False),
        DINOViT(arch=ARCH, img_size=32, patch_size=8, out_type='featmap'),
    )
    plain.load_state_dict(model.state_dict())
    model.eval(), plain.eval()
    images = torch.randn(1, 3, 40, 32)
    assert torch.equal(model(images)[0], plain(images)[0])
    assert model.out_channels == [16]


@pytest.mark.parametrize('out_type', ['featmap', 'cls_token', 'raw'])
@pytest.mark.parametrize('train_prototypes', [True, False])
def test_every_trainable_parameter_gets_a_gradient(out_type, train_prototypes):
    """DDP waits for the gradient of each trainable parameter."""
    model = small(out_type=out_type, train_prototypes=train_prototypes, out_indices=(1, 3))
    model.train()
    sum(
        level.square().mean() + level.pow(3).mean() for level in model(torch.randn(2, 3, 32, 32))
    ).backward()
    without = [
        name
        for name, value in model.named_parameters()
        if value.requires_grad and value.grad is None
    ]
    assert not without
    assert (model.neck.prototypes.grad is not None) == train_prototypes


def test_frozen_stages():
    model = small(frozen_stages=2, drop_path_rate=0.5)
    model.train()
    learns = {name: value.requires_grad for name, value in model.named_parameters()}
    for name, flag in learns.items():
        frozen = name in ('cls_token', 'pos_embed', 'neck.norm_cls.weight', 'neck.norm_cls.bias')
        frozen |= name.startswith(('patch_embed', 'layers.0.', 'layers.1.'))
        assert flag != frozen, name
    assert [layer.training for layer in model.layers] == [False, False, True, True]

    model = small(frozen_stages=4, drop_path_rate=0.5)
    model.train()
    assert not any(value.requires_grad for value in model.parameters())
    assert not any(part.training for part in model.neck.modules())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images)[0], model(images)[0])


@pytest.mark.parametrize(
    'options', [{}, dict(drop_path_rate=0.5), dict(window_size=2), dict(frozen_stages=1)]
)
@pytest.mark.parametrize('with_cp', [True, 'mlp'])
def test_checkpointing_changes_nothing(with_cp, options):
    """Also with drop path: the second pass drops the same blocks."""
    images, gradients = torch.randn(4, 3, 40, 24), []
    for value in (False, with_cp):
        model = small(with_cp=value, out_indices=(1, 3), **options)
        model.train()
        torch.manual_seed(3)
        sum(level.square().mean() + level.pow(3).mean() for level in model(images)).backward()
        gradients.append(
            {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, wanted in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], wanted, msg=name)


def test_drop_path_only_in_training():
    """The rate increases from block to block; the filter uses that of the last block."""
    model, images = small(drop_path_rate=0.5), torch.randn(2, 3, 32, 32)
    rates = [layer.attn.out_drop.drop_prob for layer in model.layers]
    assert rates == pytest.approx([0, 1 / 6, 1 / 3, 0.5])
    model.train()
    assert not torch.equal(model(images)[0], model(images)[0])
    model.eval()
    assert torch.equal(model(images)[0], model(images)[0])
    tokens = torch.randn(64, 4, 16)
    model.train()
    patches = model.neck.filter_patches(tokens, (2, 2), model.last_block)
    patches = patches.unflatten(2, (2, 16))  # of x and x', up to a common norm
    same = (patches[:, :, 0] - patches[:, :, 1]).abs().amax(dim=(1, 2)) < 1e-5
    assert 0 < same.sum() < 64  # attention and MLP both dropped: x' is x


@pytest.mark.parametrize('out_type', ['featmap', 'cls_token', 'raw'])
def test_half_precision(out_type):
    model = small(out_type=out_type, window_size=2, with_cp=True)
    images = torch.randn(2, 3, 40, 33)
    (exact,) = model(images)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        (rough,) = model(images)
    rough.float().square().mean().backward()
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()


def test_windows():
    images = torch.randn(2, 3, 40, 56)  # 5 x 7 patches: windows of 4 are padded
    for size in (4, 16):
        model = small(window_size=size, global_blocks=(3,))
        assert model(images)[0].shape == (2, 32, 5, 7)
    # A window as large as the map, without padding, equals global attention.
    whole, none = small(window_size=4, global_blocks=()), small()
    whole.eval(), none.eval()
    images = images[:, :, :32, :32]
    torch.testing.assert_close(whole(images)[0], none(images)[0])
    # Windows exchange information through CLS only, and only in the next block.
    model = small(window_size=2, use_filter=False, out_indices=(0,), global_blocks=())
    model.eval()
    other = images.clone()
    other[:, :, 16:, 16:] += 1
    (left,), (right,) = model(images), model(other)
    same = (left - right).abs().amax(dim=(0, 1)) < 1e-6
    assert same.tolist() == [[True] * 4] * 2 + [[True, True, False, False]] * 2
    assert small(window_size=2).global_blocks == {0, 1, 2, 3}


def test_default_global_blocks_are_those_of_vitdet():
    model = small(arch=dict(ARCH, num_layers=12), window_size=2)
    assert model.global_blocks == {2, 5, 8, 11}


@pytest.mark.parametrize('options', [{}, dict(pre_norm=True)])
def test_depths(options):
    model = small(**options)
    depth = {
        name: model.get_layer_depth('backbone.' + name, 'backbone.')[0]
        for name, _ in model.named_parameters()
    }
    for name, found in depth.items():
        if name.startswith('layers.'):
            assert found == int(name.split('.')[1]) + 1
        elif name.startswith('neck.'):
            assert found == 4
        else:
            assert found == 0
    assert model.get_layer_depth('decode_head.weight', 'backbone.') == (5, 6)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(out_type='avg_featmap'), "out_type must be one of .* got 'avg_featmap'"),
        (dict(out_indices=(0, 1)), r'add 3 to out_indices, got \[0, 1\], or set use_filter=False'),
        (dict(out_indices=(1, 4), use_filter=False), r'out_indices must be below 4'),
        (dict(frozen_stages=5), 'frozen_stages must be at most 4'),
        (dict(final_norm=True), 'has no final norm'),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet', 'mmpretrain'])
def test_builds_with_its_prefix_in_every_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.parent.build(
            dict(type='cotap_mm.CoTAPViT', arch=ARCH, img_size=32, patch_size=8, num_prototypes=2)
        )
    assert isinstance(model, CoTAPViT)


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet', 'mmpretrain'])
@pytest.mark.parametrize('branch', ['student', 'teacher'])
def test_init_cfg_chooses_student_or_teacher_of_a_training_checkpoint(scope, branch, tmp_path):
    algorithm = build_tiny()
    for network in (algorithm, algorithm.teacher):
        for value in network.parameters():
            torch.nn.init.normal_(value)
    torch.save(dict(state_dict=algorithm.state_dict(), meta={}), tmp_path / 'iter_1.pth')
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.parent.build(
            dict(
                type='cotap_mm.CoTAPViT',
                arch=dict(ARCH, num_layers=2),
                img_size=32,
                patch_size=8,
                num_prototypes=2,
                init_cfg=dict(
                    type='cotap_mm.PretrainedViT',
                    checkpoint=str(tmp_path / 'iter_1.pth'),
                    network=branch,
                ),
            )
        )
        model.init_weights()
    source = algorithm.teacher if branch == 'teacher' else algorithm
    for name, value in model.state_dict().items():
        whole = name if name.startswith('neck.') else f'backbone.{name}'
        assert torch.equal(value, source.state_dict()[whole]), name


_ALONE = """
import sys
from mmpretrain.utils import dependency
dependency.WITH_MULTIMODAL = False  # as if transformers were not installed
for scope in ('mmseg', 'mmdet', 'mmpretrain'):
    __import__(scope + '.models')
    assert 'cotap_mm.models' not in sys.modules or scope != 'mmseg'
    from mmengine.registry import MODELS, DefaultScope
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(dict(
            type='cotap_mm.CoTAPViT', img_size=32, patch_size=8, num_prototypes=2,
            arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32),
            init_cfg=dict(type='cotap_mm.PretrainedViT', checkpoint=sys.argv[1])))
        model.init_weights()
    print(scope, float(model.cls_token[0, 0, 0]))
"""


@pytest.mark.slow
def test_prefix_is_sufficient_in_a_fresh_process(tmp_path):
    model = small()
    torch.save(model.state_dict(), tmp_path / 'vit.pth')
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', _ALONE, tmp_path / 'vit.pth'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    value = float(model.cls_token[0, 0, 0])
    for scope in ('mmseg', 'mmdet', 'mmpretrain'):
        assert f'{scope} {value}\n' in done.stdout


def test_init_cfg_loads_and_reports_what_stayed_random(tmp_path):
    dino = DINOViT(arch=ARCH, img_size=32, patch_size=8)
    dino.init_weights()
    torch.save(dino.state_dict(), tmp_path / 'dino.pth')
    model = CoTAPViT(
        arch=ARCH,
        img_size=(32, 64),
        patch_size=8,
        num_prototypes=2,
        init_cfg=dict(type='cotap_mm.PretrainedViT', checkpoint=str(tmp_path / 'dino.pth')),
    )
    model.init_weights()
    assert torch.equal(model.layers[3].attn.qkv.weight, dino.layers[3].attn.qkv.weight)
    report = load_pretrained(model, dino.state_dict())
    assert 'initial values kept: 7 (neck.prototypes' in str(report)
