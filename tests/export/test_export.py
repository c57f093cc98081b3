"""Exported weights give the same features in the other library."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import cotap_mm
from cotap_mm.export import convert
from cotap_mm.models import CoTAPViT, DINOViT
from cotap_mm.weights.architecture import architecture_of
from tests.helpers.foreign_weights import timm_names

WIDTH, HEADS, SIDE, PATCH = 128, 2, 64, 16  # 64 channels per head, as in the literature


def randomize(model):
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.1)
    return model


def timm_vit(timm, **options):
    """timm's network of the size of :func:`vit`."""
    return timm.models.VisionTransformer(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=2,
        num_heads=HEADS,
        mlp_ratio=2,
        num_classes=0,
        **options,
    )


@pytest.fixture(scope='module')
def vit():
    """A ViT with filter, all of whose tensors are random."""
    torch.manual_seed(0)
    model = CoTAPViT(
        arch=dict(embed_dims=WIDTH, num_layers=2, num_heads=HEADS, feedforward_channels=2 * WIDTH),
        img_size=SIDE,
        patch_size=PATCH,
        num_prototypes=3,
        out_type='raw',
    )
    return randomize(model).eval()


@pytest.fixture
def checkpoint(vit, tmp_path):
    torch.save(dict(state_dict=vit.state_dict()), tmp_path / 'cotap.pth')
    return tmp_path / 'cotap.pth'


@pytest.fixture
def images():
    return torch.randn(3, 3, SIDE, SIDE)


def plain(vit, images):
    """Return the tokens after the last block, without the filter."""
    with torch.no_grad():
        return vit.forward_tokens(images)[1]


def assert_close(got, wanted, tolerance=1e-5):
    """Compare up to ``tolerance`` times the largest value."""
    got = torch.as_tensor(got)
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize('ending', ['.pth', '.safetensors'])
def test_timm(vit, checkpoint, images, tmp_path, ending):
    timm = pytest.importorskip('timm')
    report = convert(checkpoint, tmp_path / f'timm{ending}', to='timm')
    assert 'neck.prototypes' in report.dropped
    model = timm_vit(timm)
    timm.models.load_checkpoint(model, str(tmp_path / f'timm{ending}'), strict=True)
    model.eval()
    with torch.no_grad():
        (tokens,) = model.get_intermediate_layers(
            images, n=1, norm=False, return_prefix_tokens=True
        )
    assert_close(torch.cat([tokens[1], tokens[0]], dim=1), plain(vit, images))


def test_hugging_face(vit, checkpoint, images, tmp_path):
    transformers = pytest.importorskip('transformers')
    convert(checkpoint, tmp_path / 'hf', to='hf')
    model, info = transformers.ViTModel.from_pretrained(
        tmp_path / 'hf', add_pooling_layer=False, output_loading_info=True
    )
    assert not info['missing_keys'] and not info['unexpected_keys']
    model.eval()
    with torch.no_grad():
        tokens = model(images, output_hidden_states=True).hidden_states[-1]
    wanted = plain(vit, images)
    if not torch.allclose(tokens, wanted, atol=1e-4):  # some versions return normalized tokens
        wanted = torch.nn.functional.layer_norm(wanted, (WIDTH,), eps=1e-6)
    assert_close(tokens, wanted)
    with pytest.raises(FileExistsError, match='exists; give another name'):
        convert(checkpoint, tmp_path / 'hf', to='hf')


def test_mmseg(vit, checkpoint, images, tmp_path):
    from mmseg.models import VisionTransformer

    convert(checkpoint, tmp_path / 'mmseg.pth', to='mmseg')
    model = VisionTransformer(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dims=WIDTH,
        num_layers=2,
        num_heads=HEADS,
        mlp_ratio=2,
        patch_bias=True,
        norm_cfg=dict(type='LN', eps=1e-6),
        out_indices=-1,
        output_cls_token=True,
    )
    weights = torch.load(tmp_path / 'mmseg.pth', weights_only=True)['state_dict']
    model.load_state_dict(weights, strict=True)
    model.eval()
    with torch.no_grad():
        ((patches, cls),) = model(images)
    wanted = plain(vit, images)
    assert_close(cls, wanted[:, 0])
    assert_close(patches.flatten(2).transpose(1, 2), wanted[:, 1:])


def test_round_trips(vit, checkpoint, tmp_path):
    """Converted files can be loaded again."""
    for to, name in (
        ('timm', 'a.pth'),
        ('hf', 'hf'),
        ('mmpretrain', 'b.pth'),
        ('safetensors', 'c.safetensors'),
        ('cotap', 'd.pth'),
        ('mmseg', 'e.pth'),
    ):
        convert(checkpoint, tmp_path / name, to=to)
        file = tmp_path / name / 'model.safetensors' if to == 'hf' else tmp_path / name
        encoder = cotap_mm.load(file)
        ours, theirs = vit.state_dict(), encoder.network.state_dict()
        has_filter = to in ('safetensors', 'cotap')
        assert (encoder.network.neck is not None) == has_filter
        for key, value in theirs.items():
            assert torch.equal(value, ours[key]), f'{to}: {key}'


@pytest.mark.slow
@pytest.mark.parametrize('to, name', [('onnx', 'a.onnx'), ('torchscript', 'a.pt')])
def test_graphs(vit, checkpoint, tmp_path, to, name):
    """Graphs include the filter, and support another image size and any batch size."""
    if to == 'onnx':
        runtime = pytest.importorskip('onnxruntime')
        pytest.importorskip('onnx')
    convert(checkpoint, tmp_path / name, to=to, size=(48, 80))
    for batch in (1, 3):
        images = torch.randn(batch, 3, 48, 80)
        with torch.no_grad():
            (tokens,) = vit(images)
            if to == 'onnx':
                session = runtime.InferenceSession(str(tmp_path / name))
                cls, patches = session.run(['cls', 'patches'], dict(images=images.numpy()))
            else:
                cls, patches = torch.jit.load(str(tmp_path / name))(images)
        assert patches.shape == (batch, 2 * WIDTH, 3, 5)
        assert_close(cls, tokens[:, 0], 1e-4)
        assert_close(torch.as_tensor(patches).flatten(2).transpose(1, 2), tokens[:, 1:], 1e-4)
    assert [path.name for path in tmp_path.iterdir() if 'unfinished' in path.name] == []


def test_safetensors_carries_the_number_of_heads(tmp_path):
    """3 heads of 32 channels, as the toy ViT has, cannot be inferred from the weights."""
    encoder = cotap_mm.load('cotap_mm://toy_vit.pth', num_heads=3)
    weights = encoder.network.state_dict()
    with pytest.raises(ValueError, match='heads of a ViT of width 96 .* pass num_heads'):
        cotap_mm.load(weights)
    convert(weights, tmp_path / 'a.safetensors', to='safetensors', num_heads=3)
    assert cotap_mm.load(tmp_path / 'a.safetensors').network.layers[0].attn.num_heads == 3


def test_heads_are_read_from_a_training_config_without_running_it(tmp_path):
    vit = DINOViT(
        arch=dict(embed_dims=96, num_layers=1, num_heads=3, feedforward_channels=384),
        img_size=64,
        patch_size=8,
    )
    tensors = {f'backbone.{name}': value for name, value in vit.state_dict().items()}
    mark = tmp_path / 'executed'
    text = (
        f"open({str(mark)!r}, 'w')\n"
        "model = dict(type='CoTAP', backbone=dict(arch=dict(embed_dims=96, num_heads=3)))"
    )
    assert architecture_of(tensors, dict(cfg=text))['arch']['num_heads'] == 3
    assert not mark.exists()
    named = "model = dict(backbone=dict(arch='deit-tiny'))"
    assert architecture_of(tensors, dict(cfg=named))['arch']['num_heads'] == 3
    for useless in ('model = build()', 'syntax error', 'model = dict(backbone=f())'):
        with pytest.raises(ValueError, match='pass num_heads'):
            architecture_of(tensors, dict(cfg=useless))


def test_layer_scale_and_final_norm_are_converted_to_timm(images, tmp_path):
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    origin = randomize(timm_vit(timm, init_values=0.1))
    convert(origin.state_dict(), tmp_path / 'b.pth', to='timm')
    again = torch.load(tmp_path / 'b.pth', weights_only=True)['state_dict']
    assert sorted(again) == sorted(origin.state_dict())
    assert all(torch.equal(value, again[name]) for name, value in origin.state_dict().items())
    transformers = pytest.importorskip('transformers')
    convert(origin.state_dict(), tmp_path / 'hf', to='hf')
    model = transformers.AutoModel.from_pretrained(tmp_path / 'hf').eval()
    with torch.no_grad():
        wanted = origin.eval().forward_features(images)
        assert_close(model(images).last_hidden_state, wanted)


@pytest.fixture
def wide(tmp_path):
    """A checkpoint of fine-tuning at 3 x 5 patches, whose grid only the config states."""
    torch.manual_seed(0)
    arch = dict(embed_dims=64, num_layers=1, num_heads=1, feedforward_channels=64)
    vit = CoTAPViT(arch=arch, img_size=(33, 70), patch_size=PATCH, num_prototypes=2, out_type='raw')
    randomize(vit)
    weights = {f'backbone.{name}': value for name, value in vit.state_dict().items()}
    config = "model = dict(type='EncoderDecoder', backbone=dict(img_size=(33, 70)))"
    torch.save(dict(state_dict=weights, meta=dict(cfg=config)), tmp_path / 'iter_1.pth')
    return tmp_path / 'iter_1.pth', vit.eval()


def test_position_embeddings_that_are_not_square(wide, tmp_path):
    path, vit = wide
    images = torch.randn(2, 3, 48, 80)
    with torch.no_grad():
        (wanted,) = vit(images)
        cls, patches = cotap_mm.load(path)(images)
        assert_close(cls, wanted[:, 0])
        assert_close(patches.flatten(2).transpose(1, 2), wanted[:, 1:])
        convert(path, tmp_path / 'a.safetensors', to='safetensors')
        assert_close(cotap_mm.load(tmp_path / 'a.safetensors')(images).cls, wanted[:, 0])
        convert(path, tmp_path / 'a.pt', to='torchscript', size=(48, 80))
        assert_close(torch.jit.load(str(tmp_path / 'a.pt'))(images)[0], wanted[:, 0])
        (wanted,) = vit(images[..., :48])
        convert(path, tmp_path / 'b.pt', to='torchscript', size=(48, 48))
        assert_close(torch.jit.load(str(tmp_path / 'b.pt'))(images[..., :48])[0], wanted[:, 0])


def test_hugging_face_gets_the_grid(wide, tmp_path):
    transformers = pytest.importorskip('transformers')
    path, vit = wide
    convert(path, tmp_path / 'hf', to='hf')
    model = transformers.ViTModel.from_pretrained(tmp_path / 'hf', add_pooling_layer=False).eval()
    images = torch.randn(2, 3, 48, 80)
    with torch.no_grad():
        tokens = model(images).last_hidden_state  # after the norm of weight 1
    assert_close(tokens, torch.nn.functional.layer_norm(plain(vit, images), (64,), eps=1e-6))


def test_unknown_grid(wide):
    weights = torch.load(wide[0], weights_only=True)['state_dict']
    with pytest.raises(ValueError, match='the 15 position embeddings are not a square grid.* meta'):
        cotap_mm.load(weights)


def test_invalid_arguments(checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r'must be named \*.onnx, got a.pth'):
        convert(checkpoint, tmp_path / 'a.pth', to='onnx')
    with pytest.raises(ValueError, match=r'hf is a folder .* without .pth'):
        convert(checkpoint, tmp_path / 'a.pth', to='hf')
    with pytest.raises(ValueError, match=r'multiples of 16, got \(60, 64\)'):
        convert(checkpoint, tmp_path / 'a.pt', to='torchscript', size=(60, 64))
    with pytest.raises(ValueError, match='pass num_heads'):
        convert({**timm_names()}, tmp_path / 'a.safetensors', to='safetensors')
    assert not list(tmp_path.glob('a.*'))


def test_hf_config_is_json(checkpoint, tmp_path):
    convert(checkpoint, tmp_path / 'hf', to='hf')
    config = json.loads((tmp_path / 'hf' / 'config.json').read_text())
    assert (config['hidden_size'], config['image_size'], config['patch_size']) == (
        WIDTH,
        SIDE,
        PATCH,
    )
    assert np.prod([config['num_attention_heads'], 64]) == WIDTH
