"""Weights fit completely, are resized where possible, or are rejected with reasons."""

from __future__ import annotations

import pytest
import torch

from cotap_mm.models.backbones.dino_vit import DINOViT, VisionTransformer
from cotap_mm.ops import resize_position_embedding
from cotap_mm.weights import load_pretrained
from tests.helpers.foreign_weights import small_vit, timm_names


def assert_rejected(model, content, *patterns):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_pretrained(model, content)
    for pattern in ('does not fit', *patterns):
        assert pattern in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_wrong_width_names_shapes_and_remedy():
    assert_rejected(
        small_vit(DINOViT),
        timm_names(width=24),
        'shapes differ',
        'backbone.cls_token is (1, 1, 24) in the file and (1, 1, 16) in the model',
        'a ViT of width 24, 2 blocks, patch 8',
        'arch=dict(embed_dims=24, num_layers=2, num_heads=N, feedforward_channels=32), '
        'patch_size=8',
    )


def test_too_few_and_too_many_blocks():
    assert_rejected(
        small_vit(DINOViT), timm_names(depth=1), 'lacks 12 tensors of the backbone', 'layers.1.'
    )
    assert_rejected(
        small_vit(DINOViT),
        timm_names(depth=3),
        'no parameter for 12 tensors',
        'layers.2.',
        'The file has a ViT of width 16, 3 blocks',
    )


@pytest.mark.parametrize('channels', [1, 2, 4, 6, 13])
def test_other_number_of_channels(channels):
    """A gray image gives the same embedding in any number of channels."""
    params = timm_names()
    usual, other = small_vit(DINOViT), small_vit(DINOViT, in_channels=channels)
    assert not load_pretrained(usual, params).adapted
    report = load_pretrained(other, params)
    assert report.adapted == ['backbone.patch_embed.projection.weight']
    assert 'input channels adapted' in str(report)
    gray = torch.rand(2, 1, 32, 32)
    if channels % 3 and channels != 1:  # the three channels do not occur equally often
        weight = other.patch_embed.projection.weight
        assert torch.allclose(weight[:, 0], params['patch_embed.proj.weight'][:, 0] * 3 / channels)
        return
    wanted = usual.patch_embed(gray.expand(-1, 3, -1, -1))[0]
    found = other.patch_embed(gray.expand(-1, channels, -1, -1))[0]
    assert torch.allclose(found, wanted, atol=1e-5)


def test_attention_without_bias():
    params = {k: v for k, v in timm_names().items() if not k.endswith('qkv.bias')}
    assert_rejected(small_vit(DINOViT), params, 'qkv_bias=False')
    assert not load_pretrained(small_vit(DINOViT, qkv_bias=False), params).missing


def test_missing_final_norm():
    assert_rejected(small_vit(final_norm=True), timm_names(norm=False), 'final_norm=False')


@pytest.mark.parametrize(
    'theirs, ours',
    [
        (dict(final_norm=True), dict()),
        (dict(qkv_bias=False), dict()),
        (dict(layer_scale_init_value=0.1), dict()),
        (dict(), dict(layer_scale_init_value=0.1)),
        (dict(qkv_bias=False, final_norm=False), dict(final_norm=True)),
        (dict(pre_norm=True), dict()),
        (dict(), dict(pre_norm=True, final_norm=True)),
    ],
)
def test_remedies_work(theirs, ours):
    """The remedy in the error message makes the file load."""
    source, model = (small_vit(**options) for options in (theirs, ours))
    content = {f'backbone.{name}': value for name, value in source.state_dict().items()}
    try:
        load_pretrained(model, content)
        assert theirs == dict(final_norm=True)  # a norm that the model lacks is skipped
        return
    except ValueError as error:
        remedy = str(error).split('Build the backbone with ')[1].split(', as in the file')[0]
    options = eval(f'dict({remedy})')
    assert not load_pretrained(small_vit(**{**ours, **options}), content).missing


@pytest.mark.parametrize('kind', [DINOViT, VisionTransformer])
@pytest.mark.parametrize('img_size', [48, (16, 40)])
def test_position_embeddings_are_resized(kind, img_size):
    params = timm_names()
    ramp = torch.arange(4.0).view(1, 4).expand(4, 4)  # grows to the right only
    params['pos_embed'][0, 1:] = ramp.reshape(16, 1)
    model = small_vit(kind, img_size=img_size)
    report = load_pretrained(model, params)
    assert report.resized == ['backbone.pos_embed']
    assert torch.equal(model.pos_embed[:, 0], params['pos_embed'][:, 0])
    grid = model.pos_embed[0, 1:].detach().view(*model.patch_resolution, -1)
    assert torch.allclose(grid, grid[:1].expand_as(grid), atol=1e-5)
    assert (grid.diff(dim=1) > 0).all()


def test_position_embeddings_of_a_wide_grid():
    wide, small = small_vit(DINOViT, img_size=(16, 48)), small_vit(DINOViT, img_size=(32, 96))
    torch.nn.init.normal_(wide.pos_embed)
    report = load_pretrained(small, wide.state_dict())
    assert report.resized == ['backbone.pos_embed']
    wanted = resize_position_embedding(wide.pos_embed, (2, 6), (4, 12))
    assert torch.equal(small.pos_embed, wanted)


def test_position_embeddings_that_are_not_a_grid_are_rejected():
    assert_rejected(
        small_vit(DINOViT),
        timm_names(tokens=1 + 17),
        'pos_embed is (1, 18, 16)',
        'set img_size of the backbone to the size',
    )


def test_the_stated_grid_is_used():
    """2 x 8 patches could also be 4 x 4; 3 x 5 patches cannot be inferred."""
    for size, config in (((16, 64), 'img_size=(16, 64)'), ((24, 40), 'img_size=[24, 40]')):
        wide = small_vit(DINOViT, img_size=size)
        torch.nn.init.normal_(wide.pos_embed)
        file = dict(
            state_dict=wide.state_dict(), meta=dict(cfg=f'model = dict(backbone=dict({config}))')
        )
        model = small_vit(DINOViT)
        assert load_pretrained(model, file).resized == ['backbone.pos_embed']
        grid = tuple(side // 8 for side in size)
        wanted = resize_position_embedding(wide.pos_embed, grid, (4, 4))
        assert torch.equal(model.pos_embed, wanted)
        again = small_vit(DINOViT, img_size=size)
        assert not load_pretrained(again, file).resized
        assert torch.equal(again.pos_embed, wide.pos_embed)
    file['meta']['cfg'] = (
        'model = dict(backbone=dict(img_size=(24, 48)))'  # does not match the weights
    )
    assert_rejected(small_vit(DINOViT), file, 'set img_size of the backbone')


def test_half_precision_and_numpy_weights_are_supported():
    model = small_vit(DINOViT)
    params = timm_names()
    load_pretrained(model, {name: value.half() for name, value in params.items()})
    assert model.cls_token.dtype == torch.float32
    assert torch.allclose(model.cls_token, params['cls_token'], atol=1e-3)
    load_pretrained(model, {name: value.numpy() for name, value in params.items()})
    assert torch.equal(model.cls_token, params['cls_token'])


def test_fewer_blocks_are_not_mistaken_for_an_option():
    with pytest.raises(ValueError) as refusal:
        load_pretrained(small_vit(DINOViT), timm_names(depth=1))
    assert 'num_layers=1' in str(refusal.value) and 'qkv_bias' not in str(refusal.value)
