"""Published folders open with transformers, timm and cotap_mm, with equal features."""

from __future__ import annotations

import json
import re

import pytest
import torch

pytest.importorskip('safetensors')

import cotap_mm  # noqa: E402
from cotap_mm.encoders.encoder import normalize_images  # noqa: E402
from cotap_mm.export import convert, publish_folder  # noqa: E402
from cotap_mm.export.folders import timm_config  # noqa: E402
from cotap_mm.models import CoTAPViT  # noqa: E402
from tests.helpers.foreign_weights import hf_names, timm_names  # noqa: E402

WIDTH, SIDE = 64, 64


@pytest.fixture(scope='module')
def weights():
    """A CoTAP network whose 4 heads the weights do not tell, all tensors random."""
    torch.manual_seed(0)
    arch = dict(embed_dims=WIDTH, num_layers=2, num_heads=4, feedforward_channels=96)
    vit = CoTAPViT(arch=arch, img_size=SIDE, patch_size=16, num_prototypes=3, out_type='raw')
    for value in vit.parameters():
        torch.nn.init.normal_(value, std=0.2)
    config = "model = dict(type='CoTAP', backbone=dict(arch=dict(num_heads=4)))"
    return dict(state_dict=vit.state_dict(), meta=dict(cfg=config))


@pytest.fixture(scope='module')
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def tokens_of(encoder, images):
    """CLS and patches of an encoder, in one tensor (B, 1 + N, C)."""
    cls, patches = encoder(normalize_images(images))
    return torch.cat([cls[:, None], patches.flatten(2).transpose(1, 2)], dim=1)


def assert_close(got, wanted):
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def run_snippet(folder, library, images, monkeypatch):
    """Run the code in the model card that needs only the other library; return the tokens."""
    blocks = re.findall(r'```python\n(.*?)```', (folder / 'README.md').read_text(), re.DOTALL)
    [code] = [
        block for block in blocks if f'{library} import' in block or f'import {library}' in block
    ]
    names = dict(images=normalize_images(images))
    monkeypatch.chdir(folder.parent)
    with torch.no_grad():
        exec(code, names)
    return names['tokens']


@pytest.mark.parametrize('library, package', [('hf', 'transformers'), ('timm', 'timm')])
def test_the_plain_vit_equals_ours(weights, images, tmp_path, monkeypatch, library, package):
    pytest.importorskip(package)
    folder = publish_folder(weights, tmp_path / 'model', 'MIT', library)
    wanted = tokens_of(cotap_mm.load(weights, output='backbone'), images)
    assert_close(run_snippet(folder, package, images, monkeypatch), wanted)


@pytest.mark.parametrize('library', ['hf', 'timm'])
def test_with_the_filter_in_one_line(weights, images, tmp_path, library):
    folder = publish_folder(weights, tmp_path / 'model', 'MIT', library)
    encoder = cotap_mm.load(folder)
    assert torch.equal(tokens_of(encoder, images), tokens_of(cotap_mm.load(weights), images))
    assert encoder.network.layers[0].attn.num_heads == 4
    assert encoder.weights_hash() == cotap_mm.load(weights).weights_hash()
    for name in (
        'README.md',
        'config.json',
        'preprocessor_config.json',
        'cotap_filter.safetensors',
    ):
        assert (folder / name).is_file()
    # Downstream, the folder is the checkpoint of an init_cfg.
    vit = CoTAPViT(
        arch=dict(embed_dims=WIDTH, num_layers=2, num_heads=4, feedforward_channels=96),
        img_size=SIDE,
        patch_size=16,
        num_prototypes=3,
        init_cfg=dict(type='PretrainedViT', checkpoint=str(folder)),
    )
    vit.init_weights()
    assert all(torch.equal(v, weights['state_dict'][n]) for n, v in vit.state_dict().items())


@pytest.mark.parametrize('library, package', [('hf', 'transformers'), ('timm', 'timm')])
def test_a_network_with_its_own_final_norm(images, tmp_path, monkeypatch, library, package):
    pytest.importorskip(package)
    origin = timm_names(tokens=65)
    folder = publish_folder(origin, tmp_path / 'model', 'MIT', library, num_heads=2)
    assert 'Identity' not in (folder / 'README.md').read_text()
    wanted = tokens_of(cotap_mm.load(origin, num_heads=2), images)
    assert_close(run_snippet(folder, package, images, monkeypatch), wanted)
    assert_close(tokens_of(cotap_mm.load(folder), images), wanted)


@pytest.mark.slow
def test_timm_folder_opens_in_transformers(weights, images, tmp_path):
    transformers = pytest.importorskip('transformers')
    pytest.importorskip('timm')
    folder = publish_folder(weights, tmp_path / 'model', 'MIT', 'timm')
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        tokens = model(normalize_images(images)).last_hidden_state
    assert_close(tokens, tokens_of(cotap_mm.load(weights, output='backbone'), images))


def test_timm_at_another_size_and_layer_scale(tmp_path, images):
    timm = pytest.importorskip('timm')
    origin = timm_names(width=64, tokens=65)
    scales = {f'blocks.{i}.ls{k}.gamma': torch.rand(64) for i in range(2) for k in (1, 2)}
    convert({**origin, **scales}, tmp_path / 'model', to='timm')
    assert not (tmp_path / 'model' / 'cotap_filter.safetensors').exists()
    model = timm.create_model(f'local-dir:{tmp_path / "model"}', pretrained=True).eval()
    assert torch.equal(model.blocks[1].ls2.gamma, scales['blocks.1.ls2.gamma'])
    with torch.no_grad():
        tokens = model.forward_features(normalize_images(images)[..., :48, :])
    assert tokens.shape == (2, 1 + 6 * 8, 64)
    with pytest.raises(FileExistsError, match='exists; give another name'):
        convert(origin, tmp_path / 'model', to='timm')


@pytest.mark.parametrize('hidden, width', [(1000, 384), (1536, 384), (777, 191), (3, 7)])
def test_timm_gets_the_exact_width_of_the_mlp(hidden, width):
    arch = dict(embed_dims=width, num_layers=1, num_heads=1, feedforward_channels=hidden)
    architecture = dict(arch=arch, img_size=32, patch_size=8, in_channels=3, qkv_bias=True)
    config = timm_config(architecture, False)
    assert int(width * config['model_args']['mlp_ratio']) == hidden


def test_the_image_processor_normalizes_as_we_do(weights, images, tmp_path):
    transformers = pytest.importorskip('transformers')
    folder = publish_folder(weights, tmp_path / 'model', 'MIT')
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pictures = [image.permute(1, 2, 0).numpy() for image in images]
    pixels = processor(pictures, return_tensors='pt').pixel_values
    assert (pixels - normalize_images(images)).abs().max() < 1e-5


def test_normalization_that_a_folder_states(images, tmp_path):
    """Networks of Google expect pixels in [-1, 1]."""
    folder = tmp_path / 'model'
    convert(hf_names(timm_names(tokens=65), ''), folder, to='hf', num_heads=2)
    plain = cotap_mm.load(folder)
    cls, patches = plain(images.float() / 127.5 - 1)
    wanted = torch.cat([cls[:, None], patches.flatten(2).transpose(1, 2)], dim=1)
    half = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    (folder / 'preprocessor_config.json').write_text(json.dumps(half))
    assert_close(tokens_of(cotap_mm.load(folder), images), wanted)
    # Published, it expects ImageNet's statistics, and says so.
    again = publish_folder(folder, tmp_path / 'again', 'MIT')
    assert_close(tokens_of(cotap_mm.load(again), images), wanted)
    stated = json.loads((again / 'preprocessor_config.json').read_text())
    assert stated['image_mean'] == [0.485, 0.456, 0.406]
    for bad in ([0.5, 0.5], ['a', 0, 0], [0, 0, float('nan')], 0.5):
        (folder / 'preprocessor_config.json').write_text(json.dumps(dict(half, image_mean=bad)))
        assert cotap_mm.load(folder).weights_hash() == plain.weights_hash()
