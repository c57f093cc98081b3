"""A published file contains one network and its provenance, and has its hash in its name."""

from __future__ import annotations

import hashlib

import pytest
import torch

import cotap_mm
from cotap_mm.export import publish
from cotap_mm.weights import load_pretrained
from cotap_mm.weights.hashing import weights_hash
from tests.helpers.tiny import CONFIG, build_tiny


@pytest.fixture
def trained(tmp_path):
    torch.manual_seed(0)
    model = build_tiny(queue_size=4096)
    for value in model.teacher.parameters():
        torch.nn.init.normal_(value)
    torch.save(
        dict(
            state_dict=model.state_dict(),
            optimizer=dict(state=torch.zeros(10000)),
            message_hub=dict(),
            meta=dict(cfg=CONFIG, iter=7, time='now', hook_msgs=dict()),
        ),
        tmp_path / 'iter_7.pth',
    )
    return tmp_path / 'iter_7.pth', model


@pytest.mark.parametrize('network', [None, 'student', 'teacher'])
def test_one_network_without_training_state(trained, tmp_path, network):
    path, model = trained
    out = publish(path, tmp_path / 'new' / 'cotap.pth', 'Apache-2.0', network)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert out.name == f'cotap-{digest[:8]}.pth'
    assert [file.name for file in out.parent.iterdir()] == [out.name]
    content = torch.load(out, weights_only=True)
    assert sorted(content) == ['meta', 'state_dict']
    assert all(name.startswith(('backbone.', 'neck.', 'head.')) for name in content['state_dict'])
    meta = content['meta']
    assert meta['license'] == 'Apache-2.0' and meta['cfg'] == CONFIG and meta['iter'] == 7
    assert meta['versions']['cotap_mm'] == cotap_mm.__version__
    assert meta['branch'] == (network or 'student')
    assert meta['sha256'] == weights_hash(content['state_dict'])
    again = build_tiny()
    assert not load_pretrained(again, out).missing
    source = model.teacher if network == 'teacher' else model
    for name, value in content['state_dict'].items():
        assert torch.equal(value, source.state_dict()[name]), name
    assert cotap_mm.load(out).network.layers[0].attn.num_heads == 2


def test_the_hash_covers_names_and_values():
    weights = {'b': torch.arange(3.0), 'a': torch.tensor(True), 'c': torch.ones(2).bfloat16()}
    known = hashlib.sha256(
        b'a\x01' + b'b' + torch.arange(3.0).numpy().tobytes() + b'c' + b'\x80\x3f' * 2
    )
    assert weights_hash(weights) == known.hexdigest()
    assert weights_hash({**weights, 'a': torch.tensor(False)}) != known.hexdigest()


def test_a_model_of_another_library_is_kept_entirely(tmp_path):
    weights = {'backbone.a': torch.ones(2), 'decode_head.b': torch.zeros(3)}
    torch.save(dict(state_dict=weights, optimizer={}, meta=dict(epoch=3)), tmp_path / 'a.pth')
    out = publish(tmp_path / 'a.pth', tmp_path / 'seg.pth', 'MIT')
    content = torch.load(out, weights_only=True)
    assert sorted(content['state_dict']) == sorted(weights) and content['meta']['epoch'] == 3
    with pytest.raises(ValueError, match='has no teacher, so there is no choice; omit network'):
        publish(tmp_path / 'a.pth', tmp_path / 'seg.pth', 'MIT', network='student')


def test_invalid_arguments(trained, tmp_path):
    path, _ = trained
    with pytest.raises(ValueError, match=r'must be named \*.pth, got a.bin'):
        publish(path, tmp_path / 'a.bin', 'MIT')
    with pytest.raises(ValueError, match='license must not be empty'):
        publish(path, tmp_path / 'a.pth', ' ')
    torch.save(dict(a=torch.zeros(1)), tmp_path / 'bare.pth')
    with pytest.raises(ValueError, match='bare.pth has no state_dict'):
        publish(tmp_path / 'bare.pth', tmp_path / 'a.pth', 'MIT')
