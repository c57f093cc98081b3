"""The README's Python snippets run with small weights at the paths they name."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

import cotap_mm
from cotap_mm.models import CoTAPViT

ROOT = Path(__file__).resolve().parents[2]
WIDE = dict(embed_dims=64, num_layers=12, num_heads=1, feedforward_channels=64)


def snippet(containing):
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.S)
    found = [block for block in blocks if containing in block]
    assert len(found) == 1, containing
    return found[0]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    vit = CoTAPViT(arch=WIDE)
    vit.init_weights()
    for name in ('vits_folder/iter_100000.pth',):
        path = tmp_path / 'work_dirs' / name
        path.parent.mkdir(parents=True)
        torch.save(dict(state_dict=vit.state_dict()), path)
    pixels = np.random.RandomState(0).randint(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'photo.jpg')
    return vit


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet', 'mmpretrain'])
def test_backbone_in_a_custom_config(here, scope):
    names = {}
    exec(snippet("type='cotap_mm.CoTAPViT'").replace("'deit-small'", repr(WIDE)), names)
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(names['backbone'])
    model.init_weights()
    assert torch.equal(model.layers[5].attn.qkv.weight, here.layers[5].attn.qkv.weight)
    assert [level.shape[1] for level in model(torch.zeros(1, 3, 64, 64))] == [64, 64, 64, 128]


def test_encoder_without_configs(here):
    """The line after the training, which test_doc_snippets.py runs at toy size."""
    first, training, encoding = snippet('cotap_mm.load(').splitlines()
    assert first == 'import cotap_mm' and training.startswith('run = cotap_mm.pretrain(')
    checkpoint = 'work_dirs/vits_folder/iter_100000.pth'
    names = dict(cotap_mm=cotap_mm, run=SimpleNamespace(checkpoint=checkpoint))
    exec(encoding, names)
    assert names['cls'].shape == (1, 128)
    assert names['patches'].shape == (1, 128, 3, 4)
