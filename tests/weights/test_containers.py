"""Wrapper segments, folders, shards, parts, and position embeddings without CLS."""

from __future__ import annotations

import json

import pytest
import torch

import cotap_mm
from cotap_mm.export import convert
from cotap_mm.models import DINOViT
from cotap_mm.weights import load_pretrained
from cotap_mm.weights.reading import read_checkpoint
from tests.helpers.foreign_weights import (
    ARCH,
    PATCH,
    SIDE,
    hf_names,
    last_tokens,
    small_vit,
    timm_forward,
    timm_names,
    under,
)

PARAMS, OTHER = timm_names(seed=3), timm_names(seed=4)


def loaded(content, **options):
    """Load everything into a ViT and return its CLS token."""
    model = small_vit(DINOViT)
    report = load_pretrained(model, content, **options)
    assert not report.missing and not report.unexpected, str(report)
    return model.cls_token


def wrapped(names, outer, inner):
    """Wrap the network, each block and each part of a block."""
    content = {}
    for name, value in names.items():
        parts = name.split('.')
        if parts[0] == 'blocks':
            parts = [*parts[:2], inner, parts[2], inner, *parts[3:]]
        content['.'.join([outer, *parts] if outer else parts)] = value
    return content


@pytest.mark.parametrize(
    'segments',
    [
        ('', '_orig_mod'),
        ('_orig_mod', '_orig_mod'),
        ('', '_checkpoint_wrapped_module'),
        ('module', '_fsdp_wrapped_module._checkpoint_wrapped_module'),
        ('', 'module'),
        ('_forward_module', '_orig_mod._fpw_module'),
        ('module._orig_mod', 'module'),
    ],
)
def test_wrappers_anywhere_in_a_name(segments):
    content = wrapped(PARAMS, *segments)
    assert content.keys() != PARAMS.keys()
    assert torch.equal(loaded(content), PARAMS['cls_token'])
    assert torch.equal(loaded({'state_dict': under('backbone.', content)}), PARAMS['cls_token'])


@pytest.mark.parametrize(
    'keys',
    [
        ('model_state_dict',),
        ('net',),
        ('checkpoint', 'state_dict'),
        ('a', 'b', 'c', 'd'),
        ('state_dict', 'model'),
        ('params_ema',),
    ],
)
def test_containers(keys):
    content = dict(PARAMS)
    for key in reversed(keys):
        content = {key: content, 'epoch': 3, 'more': {'lr': torch.zeros(1)}}
    assert torch.equal(loaded(content), PARAMS['cls_token'])


def test_several_networks(tmp_path):
    torch.save(
        {
            'state_dict': {**under('backbone.', PARAMS), **under('momentum_backbone.', OTHER)},
            'meta': {'epoch': 1},
        },
        tmp_path / 'two.pth',
    )
    with pytest.raises(
        ValueError,
        match='holds 2 ViTs; choose one of them: '
        'FILE::state_dict.backbone, FILE::state_dict.momentum_backbone',
    ):
        loaded(tmp_path / 'two.pth')
    for part, params in (
        ('momentum_backbone', OTHER),
        ('state_dict.momentum_backbone', OTHER),
        ('state_dict.backbone', PARAMS),
        ('backbone', PARAMS),
    ):
        assert torch.equal(loaded(f'{tmp_path / "two.pth"}::{part}'), params['cls_token'])
    assert read_checkpoint(f'{tmp_path / "two.pth"}::backbone')['meta'] == {'epoch': 1}
    with pytest.raises(ValueError, match="no part called 'head'; it has state_dict"):
        loaded(f'{tmp_path / "two.pth"}::head')
    with pytest.raises(FileNotFoundError, match='one.pth is not a file'):
        loaded(f'{tmp_path / "one.pth"}::backbone')
    # Other containers are searched only if the usual one is empty.
    assert torch.equal(loaded({'state_dict': PARAMS, 'ema_state_dict': OTHER}), PARAMS['cls_token'])
    torch.save(PARAMS, tmp_path / 'a::b.pth')
    assert torch.equal(loaded(tmp_path / 'a::b.pth'), PARAMS['cls_token'])


def test_parts_from_the_command_line(tmp_path):
    torch.save(
        {**under('backbone.', PARAMS), **under('momentum_backbone.', OTHER)}, tmp_path / 'two.pth'
    )
    convert(f'{tmp_path / "two.pth"}::momentum_backbone', tmp_path / 'timm.pth', 'timm')
    found = torch.load(tmp_path / 'timm.pth', weights_only=True)['state_dict']
    assert torch.equal(found['cls_token'], OTHER['cls_token'])


def save_shards(folder, suffix, names=None):
    from safetensors.torch import save_file

    items = list((names or hf_names(PARAMS)).items())
    files = {
        f'{"model" if suffix == "safetensors" else "pytorch_model"}-0000{part}-of-00002.'
        f'{suffix}': dict(items[part - 1 :: 2])
        for part in (1, 2)
    }
    for name, tensors in files.items():
        if suffix == 'safetensors':
            save_file(
                {key: value.contiguous() for key, value in tensors.items()}, str(folder / name)
            )
        else:
            torch.save(tensors, folder / name)
    stem = 'model.safetensors' if suffix == 'safetensors' else 'pytorch_model.bin'
    index = folder / f'{stem}.index.json'
    index.write_text(
        json.dumps(
            dict(
                metadata={},
                weight_map={key: name for name, tensors in files.items() for key in tensors},
            )
        )
    )
    return index, sorted(files)


@pytest.mark.parametrize('suffix', ['safetensors', 'bin'])
def test_shards(tmp_path, suffix):
    index, (first, second) = save_shards(tmp_path, suffix)
    for given in (tmp_path, str(tmp_path), index):
        assert torch.equal(loaded(given), PARAMS['cls_token'])
    with pytest.raises(ValueError, match=f'{second} is part 2 of 2 of a sharded checkpoint; give'):
        loaded(tmp_path / second)
    (tmp_path / first).unlink()
    with pytest.raises(
        FileNotFoundError, match=f'{first} is missing, although {index.name} lists it'
    ):
        loaded(tmp_path)


@pytest.mark.parametrize(
    'text, message',
    [
        ('{"weight_map": {"a": "../secret.bin"}}', 'must have a weight_map'),
        ('[]', 'a JSON object'),
        ('{"weight_map": {}}', 'must have a weight_map'),
        ('[' * 100_000, 'not a JSON file'),
        ('{"weight_map": 3}', 'must have a weight_map'),
        ('', 'not a JSON file'),
    ],
)
def test_hostile_index(tmp_path, text, message):
    (tmp_path / 'model.safetensors.index.json').write_text(text)
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path)


def test_folders_of_hugging_face_and_their_config(tmp_path):
    convert(PARAMS, tmp_path / 'hf', 'hf', num_heads=ARCH['num_heads'])
    for given in (tmp_path / 'hf', tmp_path / 'hf' / 'model.safetensors'):
        encoder = cotap_mm.load(given)  # the number of heads is in config.json only
        assert encoder.network.layers[0].attn.num_heads == ARCH['num_heads']
    (tmp_path / 'empty').mkdir()
    torch.save(PARAMS, tmp_path / 'empty' / 'iter_3.pth')
    with pytest.raises(
        FileNotFoundError,
        match='empty is a folder without model.safetensors or '
        'pytorch_model.bin; give a file, such as .*iter_3.pth',
    ):
        loaded(tmp_path / 'empty')


def test_position_embeddings_without_cls():
    """DeiT III and timm's no_embed_class add positions before CLS is prepended."""
    params = {**PARAMS, 'pos_embed': PARAMS['pos_embed'][:, 1:]}
    model = small_vit(DINOViT)
    load_pretrained(model, params)
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros(1, 1, 16)
    wanted = timm_forward(
        {**params, 'pos_embed': torch.cat([zeros, params['pos_embed']], 1)}, images
    )
    assert (last_tokens(model, images) - wanted).abs().max() < 1e-5
    encoder = cotap_mm.load(params, num_heads=2)
    assert encoder.network.pos_embed.shape == (1, 1 + (SIDE // PATCH) ** 2, 16)
    assert not encoder.network.pos_embed[:, 0].any()


def test_position_embeddings_of_timm_without_cls():
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    theirs = timm.models.VisionTransformer(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=16,
        depth=2,
        num_heads=2,
        mlp_ratio=2,
        num_classes=0,
        no_embed_class=True,
        global_pool='',
    ).eval()
    model = small_vit(final_norm=True)
    assert not load_pretrained(model, theirs.state_dict()).missing
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        assert (last_tokens(model, images) - theirs(images)).abs().max() < 1e-5
