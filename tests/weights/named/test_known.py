"""Short names of weights, and what is suggested for a misspelled one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from cotap_mm.command_line.choices import INITS
from cotap_mm.weights import detect_checkpoint, reading
from cotap_mm.weights.named.known import KNOWN, suggestion, url_of
from tests.helpers.foreign_weights import timm_names

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'


def test_shipped_configs_start_from_known_weights():
    text = ''.join(path.read_text() for path in (CONFIGS / 'cotap').glob('*.py'))
    assert set(re.findall(r"'(https://\S+\.pth)'", text)) == set(KNOWN.values())
    assert tuple(KNOWN) == INITS


def test_a_name_is_read_from_its_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reading, 'get_dir', lambda: str(tmp_path))
    torch.save(timm_names(seed=1), tmp_path / 'weights.pth')
    cached = reading.cached_path(KNOWN['dino_vits16'])
    cached.parent.mkdir()
    (tmp_path / 'weights.pth').rename(cached)
    detected = detect_checkpoint('dino_vits16')
    assert detected.name == 'dino_vits16' and detected.report.source == 'timm'
    assert torch.equal(detected.tensors['backbone.cls_token'], timm_names(seed=1)['cls_token'])


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(timm_names(seed=2), 'dino_vits16')
    assert url_of('dino_vits16') == 'dino_vits16'
    tensors = detect_checkpoint('dino_vits16').tensors
    assert torch.equal(tensors['backbone.cls_token'], timm_names(seed=2)['cls_token'])


@pytest.mark.parametrize(
    'typed, meant',
    [
        ('dino_vits_16', 'dino_vits16'),
        ('DINO_ViTB8', 'dino_vitb8'),
        ('run/iter_40.pth', 'run/iter_400.pth'),
        ('./run/itr_400.pth', './run/iter_400.pth'),
        ('vit_small_patch16_224.dino', 'timm:vit_small_patch16_224.dino'),
        ('tim:vit_small_patch16_224', 'timm:vit_small_patch16_224'),
        ('TIMM:vit_small_patch16_224', 'timm:vit_small_patch16_224'),
        ('nowhere/x.pth', None),
        ('resnet50', None),
    ],
)
def test_misspelled_names(tmp_path, monkeypatch, typed, meant):
    monkeypatch.chdir(tmp_path)
    Path('run').mkdir()
    for name in ('iter_400.pth', 'train.log'):
        Path('run', name).touch()
    assert suggestion(typed) == (f' (did you mean {meant}?)' if meant else '')
    with pytest.raises(FileNotFoundError) as error:
        detect_checkpoint(typed)
    assert str(error.value).startswith(f'checkpoint {typed} is not a file')
    assert (f'did you mean {meant}?' in str(error.value)) == bool(meant)
    assert (
        '; give the path of a checkpoint, a URL, a folder of Hugging Face, hf:USER/REPO, timm'
        in str(error.value)
    )
