"""Networks with registers, rotary positions, gated MLPs: equal in transformers and timm."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import layer_norm

pytest.importorskip('safetensors')

import cotap_mm  # noqa: E402
from cotap_mm.cli.convert import main as convert_main  # noqa: E402
from cotap_mm.export import convert, publish_folder  # noqa: E402
from cotap_mm.models import CoTAPViT  # noqa: E402

WIDTH, SIDE, PATCH = 64, 32, 8
SIZES = dict(embed_dims=WIDTH, num_layers=2, num_heads=4, feedforward_channels=176)
DINOV3 = dict(layer_scale=True, norm_eps=1e-5, rope=dict(theta=100.0), num_registers=4)
# Options of the architecture, and the model of transformers with these parts.
NETWORKS = {
    'scaled': (dict(layer_scale=True, feedforward_channels=128, pos_resize='size'), 'Dinov2Model'),
    'gated': (dict(ffn='swiglu', layer_scale=True, pos_resize='size'), 'Dinov2Model'),
    'gated only': (dict(ffn='swiglu', pos_resize='size', qkv_bias=False), 'Dinov2Model'),
    'registers': (
        dict(num_registers=3, feedforward_channels=64, pos_resize='antialias'),
        'Dinov2WithRegistersModel',
    ),
    'registers, gated': (
        dict(ffn='swiglu', layer_scale=True, num_registers=4, pos_resize='antialias'),
        'Dinov2WithRegistersModel',
    ),
    'dinov3': (DINOV3, 'DINOv3ViTModel'),
    'dinov3, gated': (dict(DINOV3, ffn='swiglu'), 'DINOv3ViTModel'),
    'dinov3, key bias': (dict(DINOV3, key_bias=True), 'DINOv3ViTModel'),
    'rope only': (
        dict(rope=dict(theta=50.0), feedforward_channels=70, qkv_bias=False),
        'DINOv3ViTModel',
    ),
}
NORMED = {
    'normed': (dict(num_registers=2, qk_norm=True, pos_resize='antialias'), ''),
    'dinov3, normed': (dict(DINOV3, qk_norm=True), ''),
}
RULES = dict(Dinov2Model='size', Dinov2WithRegistersModel='antialias')


def network(name, img_size=SIDE, **changes):
    """Build a network with filter, all of whose parameters are random, and a file of it."""
    arch = {**SIZES, **{**NETWORKS, **NORMED}[name][0], **changes}
    qkv_bias = arch.pop('qkv_bias', True)
    torch.manual_seed(0)
    vit = CoTAPViT(
        arch=arch,
        img_size=img_size,
        patch_size=PATCH,
        num_prototypes=3,
        out_type='raw',
        qkv_bias=qkv_bias,
    )
    for key, value in vit.named_parameters():
        torch.nn.init.normal_(value, mean=float('gamma' in key or 'norm' in key), std=0.2)
    for block in vit.layers:
        if vit.rope is not None and qkv_bias and not arch.get('key_bias'):
            block.attn.qkv.bias.data.chunk(3)[1].zero_()
    config = f'model = dict(type="CoTAP", backbone=dict(img_size={img_size!r}, arch={arch!r}))'
    return vit.eval(), dict(state_dict=vit.state_dict(), meta=dict(cfg=config))


def images(height=SIDE, width=SIDE):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))


def tokens_of(vit, batch):
    """CLS, registers and patches after the last block, without the filter."""
    with torch.no_grad():
        return vit.forward_tokens(batch)[1]


def assert_close(got, wanted):
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def sizes(vit, rule):
    """The size of the position embeddings, and others, if they are resized by the same rule."""
    same = [(SIDE, SIDE)]
    return [*same, (24, 40), (48, 16)] if vit.rope is not None or vit.pos_resize == rule else same


def assert_equal_again(vit, content, again, changed=()):
    """Weights and features of a folder or file, read again, are those of the network."""
    loaded, wanted = cotap_mm.load(again), cotap_mm.load(content)
    if loaded.network.neck is None:
        wanted = cotap_mm.load(content, output='backbone')
    got, ours = loaded.network.state_dict(), wanted.network.state_dict()
    assert list(got) == list(ours)
    assert [name for name in ours if not torch.equal(got[name], ours[name])] == list(changed)
    for size in ((SIDE, SIDE), (24, 40)):
        for ours_, theirs in zip(wanted(images(*size)), loaded(images(*size))):
            assert torch.equal(ours_, theirs)
    assert changed or loaded.weights_hash() == wanted.weights_hash()


@pytest.mark.parametrize('name', NETWORKS)
def test_transformers(name, tmp_path):
    transformers = pytest.importorskip('transformers')
    options, kind = NETWORKS[name]
    if not hasattr(transformers, kind):
        pytest.skip(f'this version of transformers has no {kind}')
    vit, content = network(name)
    folder = publish_folder(content, tmp_path / 'model', 'MIT')
    model, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == kind
    assert not any(info[f'{part}_keys'] for part in ('missing', 'unexpected', 'mismatched'))
    config = model.eval().config
    assert (config.image_size, config.patch_size) == (SIDE, PATCH)
    assert config.layer_norm_eps == options.get('norm_eps', 1e-6)
    assert getattr(config, 'num_register_tokens', 0) == options.get('num_registers', 0)
    for size in sizes(vit, RULES.get(kind)):
        wanted = tokens_of(vit, images(*size))
        with torch.no_grad():
            normed = model(images(*size)).last_hidden_state
        assert_close(normed, layer_norm(wanted, (WIDTH,), eps=config.layer_norm_eps))
    setattr(model, 'norm' if hasattr(model, 'norm') else 'layernorm', torch.nn.Identity())
    with torch.no_grad():
        assert_close(model(images(*size)).last_hidden_state, wanted)
    assert_equal_again(vit, content, folder)


@pytest.mark.parametrize('name', [*NETWORKS, *NORMED])
def test_timm(name, tmp_path):
    timm = pytest.importorskip('timm')
    vit, content = network(name)
    if vit.rope is not None and not timm.list_models('vit_small_patch16_dinov3_qkvb'):
        pytest.skip('this version of timm has no DINOv3')
    folder = publish_folder(content, tmp_path / 'model', 'MIT', 'timm')
    model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    assert type(model).__name__ == ('VisionTransformer' if vit.rope is None else 'Eva')
    for size in sizes(vit, 'antialias'):
        with torch.no_grad():
            assert_close(model.forward_features(images(*size)), tokens_of(vit, images(*size)))
    # timm's networks with registers have no position of CLS.
    folded = ('cls_token', 'pos_embed') if vit.num_registers and vit.rope is None else ()
    assert_equal_again(vit, content, folder, folded)
    convert(content, tmp_path / 'vit.safetensors', 'timm')
    assert_equal_again(vit, content, tmp_path / 'vit.safetensors', folded)


@pytest.mark.parametrize(
    'name, entry',
    [
        ('registers, gated', 'vit_giant_patch14_reg4_dinov2'),
        ('dinov3', 'vit_small_patch16_dinov3_qkvb'),
        ('dinov3, gated', 'vit_small_plus_patch16_dinov3_qkvb'),
    ],
)
def test_files_have_the_names_of_released_models_of_timm(name, entry, tmp_path):
    timm = pytest.importorskip('timm')
    if not timm.list_models(entry):
        pytest.skip(f'this version of timm has no {entry}')
    vit, content = network(name)
    report = convert(content, tmp_path / 'vit.pth', 'timm')
    assert 'neck.prototypes' in report.dropped and not report.notes
    model = timm.create_model(
        entry,
        **dict(embed_dim=WIDTH, depth=2, num_heads=4, patch_size=PATCH, img_size=SIDE),
        **dict(num_classes=0, mlp_ratio=5.5 if 'giant' in entry else 2.75),
        **({} if 'giant' in entry else dict(global_pool='token')),
        checkpoint_path=str(tmp_path / 'vit.pth'),
    )
    with torch.no_grad():
        got = model.eval().forward_features(images())
    assert_close(got, layer_norm(tokens_of(vit, images()), (WIDTH,), eps=vit.layers[0].ln1.eps))


def test_layer_scale_that_was_trained_elsewhere_is_kept(tmp_path):
    from safetensors.torch import load_file, save_file

    convert(network('registers')[1], tmp_path / 'hf', 'hf')
    file = tmp_path / 'hf' / 'model.safetensors'
    weights = load_file(file)
    weights['encoder.layer.1.layer_scale1.lambda1'] += 1
    save_file(weights, file)
    got = cotap_mm.load(tmp_path / 'hf').network.state_dict()
    for name, value in (('1.attn.gamma1', 2.0), ('0.ffn.gamma2', 1.0)):
        assert torch.equal(got[f'layers.{name}.weight'], torch.full((WIDTH,), value))


@pytest.mark.parametrize('name', ['scaled', 'registers', 'dinov3'])
def test_grids_that_are_not_square(name, tmp_path):
    timm = pytest.importorskip('timm')
    vit, content = network(name, img_size=(3 * PATCH, 7 * PATCH))  # 3 * 7 - 1 - 4 is a square
    folder = publish_folder(content, tmp_path / 'timm', 'MIT', 'timm')
    model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    size = (3 * PATCH, 7 * PATCH)
    with torch.no_grad():
        assert_close(model.forward_features(images(*size)), tokens_of(vit, images(*size)))
    loaded = cotap_mm.load(folder, output='backbone')
    assert torch.equal(loaded(images(*size)).cls, tokens_of(vit, images(*size))[:, 0])
    if vit.rope is None:
        with pytest.raises(ValueError, match='square grid .* of 24 x 56 pixels; use --to timm'):
            convert(content, tmp_path / 'hf', 'hf')
        assert not (tmp_path / 'hf').exists()
    else:
        convert(content, tmp_path / 'hf', 'hf')
        assert json.loads((tmp_path / 'hf' / 'config.json').read_text())['image_size'] == [24, 56]


@pytest.mark.parametrize('library', ['hf', 'timm'])
def test_periods_of_the_authors_files_are_kept_for_us(library, tmp_path):
    """They are rounded to bfloat16; other libraries compute them in float32."""
    vit, content = network('dinov3')
    rounded = vit.rope.periods.bfloat16().float()
    content['state_dict']['rope.periods'] = rounded
    report = convert(content, tmp_path / 'model', library)
    assert 'note: t' in str(report) and 'periods of rotary positions in float32' in str(report)
    assert torch.equal(cotap_mm.load(tmp_path / 'model').network.rope.periods, rounded)
    if library == 'timm':
        convert(content, tmp_path / 'vit.pth', 'timm')
        assert torch.equal(cotap_mm.load(tmp_path / 'vit.pth').network.rope.periods, rounded)
    config = json.loads((tmp_path / 'model' / 'config.json').read_text())
    for wrong in ([1.0], 'x', [-1.0] * 4):
        text = json.dumps(dict(config, cotap_rope_periods=wrong))
        (tmp_path / 'model' / 'config.json').write_text(text)
        with pytest.raises(ValueError, match='must state 4 positive periods'):
            cotap_mm.load(tmp_path / 'model')
    content['state_dict']['rope.periods'] = rounded * torch.tensor([1, 1, 1.1, 1])
    with pytest.raises(ValueError, match=r'gives 10 for i=2, n=4 and theta=.*, got 11; use --to'):
        convert(content, tmp_path / 'other', library)


@pytest.mark.parametrize(
    'name, to, changes, words',
    [
        ('registers', 'mmseg', {}, ('mmseg have no registers,', 'use --to timm, hf, safet')),
        ('scaled', 'mmseg', {}, ('have no LayerScale,', 'use --to timm, hf, mmpretrain, safet')),
        (
            'dinov3, gated',
            'mmpretrain',
            {},
            ('no registers, rotary positions or gated MLPs, which', 'use --to timm, hf, safe'),
        ),
        (
            'normed',
            'hf',
            {},
            (
                'of transformers have no norms of queries and keys,',
                'use --to timm, safetensors, onnx',
            ),
        ),
        ('scaled', 'hf', dict(feedforward_channels=100), ('a multiple of it', 'got 100 channels')),
        ('gated', 'hf', dict(feedforward_channels=100), ('two thirds', 'got 100 channels; use')),
        ('scaled', 'timm', dict(norm_eps=1e-5), ('eps=1e-05, only 1e-06; use --to hf',)),
        ('dinov3', 'timm', dict(norm_eps=1e-3), ('eps=0.001, only 1e-06 and 1e-05; use',)),
    ],
)
def test_refused_with_a_way_out(name, to, changes, words, tmp_path):
    out = tmp_path / ('model' if to in ('hf', 'timm') else 'model.pth')
    with pytest.raises(ValueError) as caught:
        convert(network(name, **changes)[1], out, to)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not out.exists()


def test_differences_at_other_sizes_are_noted(tmp_path):
    content = network('scaled')[1]
    assert not convert(content, tmp_path / 'hf', 'hf').notes
    (note,) = convert(content, tmp_path / 'timm', 'timm').notes
    assert note.startswith('at image sizes other than 32 x 32, features differ: timm resizes')
    folder = publish_folder(content, tmp_path / 'card', 'MIT', 'timm')
    assert f'A{note[1:]}.' in (folder / 'README.md').read_text()


@pytest.mark.parametrize('library, package', [('hf', 'transformers'), ('timm', 'timm')])
@pytest.mark.parametrize('name', ['registers', 'dinov3'])
def test_code_in_the_model_card(name, library, package, tmp_path, monkeypatch):
    pytest.importorskip(package)
    vit, content = network(name)
    folder = publish_folder(content, tmp_path / 'model', 'MIT', library)
    blocks = (folder / 'README.md').read_text().split('```python\n')[1:]
    [code] = [block.split('```')[0] for block in blocks if package in block.split('```')[0]]
    assert f'{vit.num_registers} registers, patches' in code
    names = dict(images=images())
    monkeypatch.chdir(tmp_path)
    with torch.no_grad():
        exec(code, names)
    assert_close(names['tokens'], tokens_of(vit, images()))


@pytest.mark.parametrize('to, file', [('onnx', 'a.onnx'), ('torchscript', 'a.pt')])
def test_graphs(to, file, tmp_path):
    if to == 'onnx':
        runtime = pytest.importorskip('onnxruntime')
        pytest.importorskip('onnx')
    for name in ('registers, gated', 'dinov3, gated'):
        vit, content = network(name)
        convert(content, tmp_path / file, to, size=(24, 40), overwrite=True)
        batch = torch.cat([images(24, 40)] * 2)[:3]
        with torch.no_grad():
            (wanted,) = vit(batch)
            if to == 'onnx':
                session = runtime.InferenceSession(str(tmp_path / file))
                cls, patches = session.run(['cls', 'patches'], dict(images=batch.numpy()))
            else:
                cls, patches = torch.jit.load(str(tmp_path / file))(batch)
        got = torch.cat([torch.as_tensor(cls)[:, None], torch.as_tensor(patches).flatten(2).mT], 1)
        assert got.shape == wanted.shape == (3, 16, 2 * WIDTH)
        assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_on_the_command_line(tmp_path, capsys):
    torch.save(network('dinov3')[1], tmp_path / 'cotap.pth')
    convert_main([str(tmp_path / 'cotap.pth'), str(tmp_path / 'hf'), '--to', 'hf'])
    assert f'-> {tmp_path / "hf"}' in capsys.readouterr().out
    config = json.loads((tmp_path / 'hf' / 'config.json').read_text())
    assert config['architectures'] == ['DINOv3ViTModel'] and config['rope_theta'] == 100.0
    convert_main([str(tmp_path / 'hf'), str(tmp_path / 'b.safetensors'), '--to', 'safetensors'])
    capsys.readouterr()
    with pytest.raises(SystemExit, match='use --to timm, hf, safetensors, onnx or torchscript'):
        convert_main([str(tmp_path / 'hf'), str(tmp_path / 'c.pth'), '--to', 'mmseg'])
