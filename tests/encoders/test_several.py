"""Several encoders give what each gives alone, with fewer forward passes."""

from __future__ import annotations

import torch

from cotap_mm.encoders.several import encode_each, group_by_network
from cotap_mm.evaluation import CoTAPEncoder
from tests.helpers.pixel_scenes import PixelEncoder
from tests.helpers.tiny import build_tiny


def trained():
    """An algorithm whose teacher differs from its student, in training mode."""
    torch.manual_seed(0)
    algorithm = build_tiny().train()
    with torch.no_grad():
        algorithm.backbone.cls_token.add_(1)
    return algorithm


def test_outputs_of_a_network_share_a_forward_pass(monkeypatch):
    algorithm = trained()
    pairs = [('student', 'backbone'), ('teacher', 'filter'), ('student', 'filter')]
    encoders = [CoTAPEncoder(algorithm, *pair) for pair in pairs]
    encoders.insert(1, PixelEncoder())
    images = torch.randn(2, 3, 36, 24)  # rows are resized to whole patches
    alone = [encoder(images) for encoder in encoders]
    passes = []
    kind = type(algorithm.backbone)
    forward = kind.forward_tokens
    monkeypatch.setattr(
        kind,
        'forward_tokens',
        lambda self, *args: passes.append(self.training) or forward(self, *args),
    )
    found = encode_each(encoders, images)
    assert passes == [False, False] and algorithm.training
    for own, wanted in zip(found, alone):
        assert torch.equal(own.cls, wanted.cls) and torch.equal(own.patches, wanted.patches)
        assert own.patches.dtype == torch.float32 and not own.patches.requires_grad
    assert not torch.equal(found[2].patches, found[3].patches)  # teacher and student differ


def test_only_outputs_of_one_network_are_grouped():
    algorithm = trained()

    class Changed(CoTAPEncoder):
        """Computes something else."""

    encoders = [
        CoTAPEncoder(algorithm, 'student', 'filter'),
        Changed(algorithm, 'student', 'backbone'),
        CoTAPEncoder(trained(), 'student', 'backbone'),
        CoTAPEncoder(algorithm, 'teacher', 'backbone'),
        CoTAPEncoder(algorithm, 'student', 'backbone'),
    ]
    assert group_by_network(encoders) == [[0, 4], [1], [2], [3]]


def test_features_of_users_are_kept():
    class Own(type(build_tiny())):
        def encode(self, images, network='student', output='filter'):
            cls, patches = super().encode(images, network, output)
            return 2 * cls, 2 * patches

    algorithm = trained()
    images = torch.randn(1, 3, 32, 32)
    encoders = [CoTAPEncoder(algorithm, output=output) for output in ('backbone', 'filter')]
    before = encode_each(encoders, images)
    algorithm.__class__ = Own
    assert group_by_network(encoders) == [[0], [1]]
    for found, own in zip(encode_each(encoders, images), before):
        assert torch.equal(found.patches, 2 * own.patches)
