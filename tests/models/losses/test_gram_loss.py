"""The anchor to the initial network."""

from __future__ import annotations

import pytest
import torch

from cotap_mm.engine.hooks import LossWeightHook
from cotap_mm.models import GramLoss
from cotap_mm.weights import detect_checkpoint, load_pretrained
from tests.helpers.tiny import CONFIG, LOSSES, build_tiny, make_inputs

WITH_GRAM = dict(LOSSES, gram=dict(type='GramLoss'))


def test_equals_loops():
    torch.manual_seed(0)
    student, anchor = torch.randn(2, 5, 4, dtype=torch.double), torch.randn(2, 5, 7).double()
    total = 0.0
    for image in range(2):
        for i in range(5):
            for j in range(5):
                of_student, of_anchor = (
                    float(x[image, i] @ x[image, j] / (x[image, i].norm() * x[image, j].norm()))
                    for x in (student, anchor)
                )
                total += (of_student - of_anchor) ** 2
    assert float(GramLoss()(student, anchor)) == pytest.approx(total / 50, rel=1e-12)


def test_zero_with_zero_gradient_for_equal_networks_and_blind_to_rotations():
    torch.manual_seed(0)
    anchor = torch.randn(2, 6, 4)
    student = anchor.clone().requires_grad_()
    loss = GramLoss()(student, anchor)
    loss.backward()
    assert loss == 0 and not student.grad.any()
    rotation, _ = torch.linalg.qr(torch.randn(4, 4))
    assert float(GramLoss()(3 * anchor @ rotation, anchor)) < 1e-12
    assert float(GramLoss()(torch.randn(2, 6, 4), anchor)) > 0.01


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r'must agree in B and N, got \(2, 5, 4\) and \(2, 6, 4\)'):
        GramLoss()(torch.randn(2, 5, 4), torch.randn(2, 6, 4))


def started(**options):
    torch.manual_seed(0)
    model = build_tiny(losses=WITH_GRAM, **options)
    model.init_weights()
    return model.train()


def test_starts_at_zero_and_does_not_change_the_other_losses():
    model = started()
    results = model.loss(make_inputs())
    gradients = torch.autograd.grad(
        results['loss_gram'], list(model.backbone.parameters()), allow_unused=True
    )
    assert float(results['loss_gram']) < 1e-10
    assert all(g is None or g.abs().max() < 1e-6 for g in gradients)
    model, plain = started(), build_tiny().train()
    plain.load_state_dict(
        {n: v for n, v in model.state_dict().items() if not n.startswith('anchor.')}
    )
    torch.manual_seed(1)
    wanted = plain.loss(make_inputs())
    torch.manual_seed(1)
    for name, value in model.loss(make_inputs()).items():
        assert name == 'loss_gram' or value.equal(wanted[name])


def test_pulls_back_to_the_initial_network():
    model = started(loss_weights=dict(gram=3.0))
    initial = {name: value.clone() for name, value in model.anchor.state_dict().items()}
    with torch.no_grad():
        for parameter in model.backbone.layers.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    optimizer = torch.optim.Adam(model.backbone.parameters(), lr=1e-3)
    values = []
    for _ in range(12):
        loss = model.loss(make_inputs())['loss_gram']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss))
    assert values[-1] < 0.7 * values[0]
    model.teacher.update(model.student, 0.5)
    for name, value in model.anchor.state_dict().items():
        assert value.equal(initial[name])
    assert not any(p.requires_grad for p in model.anchor.parameters())
    assert not any(part.training for part in model.train().anchor.modules())


def test_checkpoint_holds_the_anchor_and_loads_the_student(tmp_path):
    model = started()
    with torch.no_grad():
        model.backbone.cls_token.add_(1)
    path = tmp_path / 'iter_1.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=CONFIG)), path)
    detected = detect_checkpoint(path)
    assert detected.tensors['backbone.cls_token'].equal(model.backbone.cls_token)
    other = started()
    load_pretrained(other, detected)  # a new run: its anchor is where it starts
    assert other.anchor.backbone.cls_token.equal(model.backbone.cls_token)
    other.load_state_dict(torch.load(path)['state_dict'])  # the same run, resumed
    assert other.anchor.backbone.cls_token.equal(model.anchor.backbone.cls_token)


class Runner:
    """What the hook reads of a runner."""

    def __init__(self, model, iteration, max_iters=11):
        self.model, self.iter, self.max_iters = model, iteration, max_iters


def test_weight_follows_a_schedule():
    model = started()
    hook = LossWeightHook(dict(gram=(2.0, 1.0)))
    hook.before_train(Runner(model, 0))
    for iteration, wanted in ((0, 2.0), (5, 1.5), (10, 1.0)):
        hook.before_train_iter(Runner(model, iteration), 0)
        assert model.losses.weights['gram'] == pytest.approx(wanted)
    with pytest.raises(ValueError, match='the model has no loss anchor; it has patch_cluster'):
        LossWeightHook(dict(anchor=(1, 0))).before_train(Runner(model, 0))
    with pytest.raises(ValueError, match='must be two numbers >= 0'):
        LossWeightHook(dict(gram=2.0))
