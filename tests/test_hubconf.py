"""torch.hub loads encoders from a clone of this repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import cotap_mm

ROOT = Path(__file__).resolve().parent.parent
TOY = 'cotap_mm://toy_vit.pth'


def test_a_clone_is_loaded_by_torch_hub():
    encoder = torch.hub.load(str(ROOT), 'cotap', source='local', checkpoint=TOY, num_heads=3)
    assert encoder.weights_hash() == cotap_mm.load(TOY, num_heads=3).weights_hash()
    with pytest.raises(FileNotFoundError, match='nowhere.pth is not a file'):
        torch.hub.load(str(ROOT), 'cotap', source='local', checkpoint='nowhere.pth')


def test_dependencies_are_those_of_the_package(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    import hubconf

    texts = [
        (ROOT / 'requirements' / f'{name}.txt').read_text() for name in ('runtime', 'mminstall')
    ]
    required = {
        *re.findall(r'^[\w-]+', '\n'.join(texts), re.MULTILINE),
        'torch',
        'torchvision',
        'mmcv',
    }
    names = {'PIL': 'pillow'}
    assert {names.get(name, name) for name in hubconf.dependencies} <= required
