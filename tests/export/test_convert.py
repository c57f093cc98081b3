"""A converted file contains the same weights by our names."""

from __future__ import annotations

import pytest
import torch

from cotap_mm.export import convert
from cotap_mm.models.backbones.dino_vit import DINOViT, VisionTransformer
from cotap_mm.weights import load_pretrained
from tests.helpers.foreign_weights import hf_names, small_vit, timm_names
from tests.helpers.tiny import build_tiny


@pytest.mark.parametrize('ending', ['.pth', '.safetensors'])
def test_vit_layout_is_mmpretrains(tmp_path, ending):
    if ending == '.safetensors':
        pytest.importorskip('safetensors')
    out = tmp_path / 'new' / ('vit' + ending)
    report = convert(hf_names(timm_names()), out, to='mmpretrain')
    assert report.source == 'hf' and report.num_loaded == 30
    wanted, got = small_vit(final_norm=True), small_vit(final_norm=True)
    load_pretrained(wanted, timm_names())
    load_pretrained(got, out, source='mmpretrain')
    assert all(
        torch.equal(value, wanted.state_dict()[name]) for name, value in got.state_dict().items()
    )
    if ending == '.pth':
        model = small_vit(
            VisionTransformer,
            final_norm=True,
            init_cfg=dict(type='Pretrained', checkpoint=str(out)),
        )
        model.init_weights()  # MMEngine's own initializer can read it too
        assert torch.equal(model.layers[1].attn.qkv.weight, wanted.layers[1].attn.qkv.weight)
    assert [path.name for path in out.parent.iterdir()] == ['vit' + ending]


def test_algorithm_layout_round_trip(tmp_path):
    torch.manual_seed(0)
    origin = build_tiny()
    for name in ('cls_token', 'pos_embed'):
        torch.nn.init.normal_(getattr(origin.teacher.backbone, name))
    convert(origin.state_dict(), tmp_path / 'teacher.pth', network='teacher')
    model = build_tiny()
    report = load_pretrained(model, tmp_path / 'teacher.pth', source='cotap_mm')
    assert not report.missing and not report.unexpected and report.teacher == 'student'
    assert torch.equal(model.backbone.pos_embed, origin.teacher.backbone.pos_embed)
    assert torch.equal(model.head['cls'].centers, origin.teacher.head['cls'].centers)


def test_files_are_small_and_plain(tmp_path):
    wide = torch.randn(64, 4, 32, 32)  # a view must not be saved with its whole storage
    convert({**timm_names(), 'cls_token': wide[0, 0, :1, :16].unsqueeze(0)}, tmp_path / 'a.pth')
    assert (tmp_path / 'a.pth').stat().st_size < 100_000
    content = torch.load(tmp_path / 'a.pth', weights_only=True)
    assert content['meta'] == dict(source='timm', branch='')


def test_invalid_arguments(tmp_path):
    out = tmp_path / 'a.pth'
    with pytest.raises(ValueError, match="to must be one of .*timm.* got 'keras'"):
        convert(timm_names(), out, to='keras')
    with pytest.raises(ValueError, match=r'\*\.pth or \*\.safetensors, got a\.bin'):
        convert(timm_names(), tmp_path / 'a.bin')
    convert(timm_names(), out)
    with pytest.raises(FileExistsError, match='exists; give another name'):
        convert(timm_names(seed=1), out)
    convert(timm_names(seed=1), out, overwrite=True)
    model = small_vit(DINOViT)
    load_pretrained(model, out)
    assert torch.equal(model.cls_token, timm_names(seed=1)['cls_token'])
