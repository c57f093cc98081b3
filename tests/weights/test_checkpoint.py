"""A checkpoint is read and detected once, whatever is done with it."""

from __future__ import annotations

import pytest
import torch

import cotap_mm
from cotap_mm.encoders.global_encoder import GlobalEncoder
from cotap_mm.export import TARGETS, convert, publish
from cotap_mm.export.graph import export_graph
from cotap_mm.models import DINOViT
from cotap_mm.weights import (
    DetectedCheckpoint,
    PretrainedViT,
    detect_checkpoint,
    load_pretrained,
)
from tests.helpers.foreign_weights import small_vit, timm_names
from tests.helpers.read_counts import count_reads
from tests.helpers.tiny import CONFIG, build_tiny

BACKBONE = dict(
    type='DINOViT',
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    img_size=32,
    patch_size=8,
)


@pytest.fixture
def trained(tmp_path):
    torch.manual_seed(0)
    model = build_tiny()
    for value in model.teacher.parameters():
        torch.nn.init.normal_(value)
    path = tmp_path / 'iter_1.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=CONFIG)), path)
    return path


@pytest.fixture
def calls(monkeypatch):
    return count_reads(monkeypatch)


USES = {
    'load_pretrained': lambda path, out: load_pretrained(small_vit(DINOViT), path),
    'load_pretrained into CoTAP': lambda path, out: load_pretrained(build_tiny(), path),
    'init_cfg': lambda path, out: PretrainedViT(str(path)).load(small_vit(DINOViT)),
    'load': lambda path, out: cotap_mm.load(path),
    'load random': lambda path, out: cotap_mm.load(f'random:{path}'),
    'load backbone': lambda path, out: cotap_mm.load(path, network='teacher', output='backbone'),
    'global encoder': lambda path, out: GlobalEncoder(BACKBONE, str(path), image_size=32),
    'publish': lambda path, out: publish(path, out / 'a.pth', 'MIT'),
    'publish teacher': lambda path, out: publish(path, out / 'a.pth', 'MIT', 'teacher'),
    'export_graph': lambda path, out: export_graph(path, out / 'a.pt', (32, 32)),
    **{
        f'convert to {to}': lambda path, out, to=to: convert(
            path, out / f'a{(TARGETS[to] or ("",))[0]}', to, size=(32, 32)
        )
        for to in TARGETS
    },
}


@pytest.mark.parametrize('use', USES)
def test_a_file_is_read_and_detected_once(trained, tmp_path, calls, use):
    if 'onnx' in use:
        pytest.importorskip('onnx')
    USES[use](trained, tmp_path / 'out')
    # Student and teacher are renamed separately.
    assert calls == dict(read=1, detected=1, renamed=2)


@pytest.mark.slow
def test_a_detected_checkpoint_is_accepted_everywhere(trained, tmp_path, calls):
    detected = detect_checkpoint(trained, network='teacher')
    for use in USES.values():
        if use not in (USES['init_cfg'], USES['global encoder'], USES['load random']):
            use(detected, tmp_path / f'{id(use)}')
    PretrainedViT(detected).load(small_vit(DINOViT))
    encoder = GlobalEncoder(BACKBONE, detected, image_size=32)
    assert calls == dict(read=1, detected=1, renamed=2)
    assert torch.equal(encoder.model.cls_token, detected.tensors['backbone.cls_token'])
    assert encoder.identity == GlobalEncoder(BACKBONE, str(trained), image_size=32).identity


def test_what_is_known_about_a_checkpoint(trained):
    detected = detect_checkpoint(trained, network='teacher')
    assert isinstance(detected, DetectedCheckpoint) and detect_checkpoint(detected) is detected
    assert str(detected) == detected.name == str(trained)
    assert detected.network == 'teacher' and detected.report.source == 'cotap_mm'
    assert detected.meta == dict(cfg=CONFIG) and detected.content['meta'] == detected.meta
    assert detected.architecture()['arch']['num_heads'] == 2 and detected.grid is None
    assert detected.architecture(4)['arch']['num_heads'] == 4
    assert detect_checkpoint(timm_names()).name == 'state dict'


def test_uses_do_not_share_a_report(trained):
    detected = detect_checkpoint(trained)
    first, second = (load_pretrained(small_vit(DINOViT), detected) for _ in range(2))
    assert first == second and first.loaded and not detected.report.loaded


def test_contradicting_options_are_rejected(trained):
    student, teacher = (detect_checkpoint(trained, network=name) for name in (None, 'teacher'))
    assert detect_checkpoint(student, 'cotap_mm', 'student') is student
    with pytest.raises(ValueError, match="network='', got network='teacher'; pass network to"):
        cotap_mm.load(student, network='teacher')
    with pytest.raises(ValueError, match="network='teacher', got network='student'"):
        publish(teacher, 'a.pth', 'MIT', 'student')
    with pytest.raises(ValueError, match="source='cotap_mm', got source='dino'"):
        load_pretrained(small_vit(DINOViT), student, source='dino')
    plain = detect_checkpoint(timm_names())
    assert detect_checkpoint(plain, 'dino', 'teacher') is plain
