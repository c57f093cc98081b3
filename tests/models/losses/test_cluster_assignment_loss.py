"""Cluster losses: two-loop references, properties, gradient, bad input."""

from __future__ import annotations

import math

import pytest
import torch

from cotap_mm.models import (
    ClsClusterLoss,
    ClusterAssignmentLoss,
    NeighborClusterLoss,
    PatchClusterLoss,
)


def cross_entropy(scores, assignment, temperature):
    top = max(scores)
    logs = [(s - top) / temperature for s in scores]
    norm = math.log(sum(math.exp(x) for x in logs))
    return -sum(a * (x - norm) for a, x in zip(assignment, logs))


def views(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1
    assignment = torch.rand(*shape, generator=generator, dtype=torch.float64).softmax(-1)
    return scores, assignment


def test_mean_over_kept_rows_by_hand():
    scores, assignment = views(6, 4)
    mask = torch.tensor([1, 0, 1, 1, 0, 0])
    rows = [cross_entropy(s, a, 0.1) for s, a in zip(scores.tolist(), assignment.tolist())]
    loss = ClusterAssignmentLoss(0.1)(scores, assignment, mask)
    assert loss.item() == pytest.approx((rows[0] + rows[2] + rows[3]) / 3)
    assert ClusterAssignmentLoss(0.1)(scores, assignment).item() == pytest.approx(sum(rows) / 6)


def test_an_empty_mask_gives_zero():
    scores, assignment = views(3, 4)
    assert ClusterAssignmentLoss()(scores, assignment, torch.zeros(3)).item() == 0


def test_cls_by_hand():
    scores, assignment = views(2, 5, 3)[0], views(2, 2, 3)[1]
    total = []
    for g in range(2):
        for v in range(5):
            if v != g:
                total += [
                    cross_entropy(scores[i, v].tolist(), assignment[i, g].tolist(), 0.1)
                    for i in range(2)
                ]
    assert ClsClusterLoss()(scores, assignment).item() == pytest.approx(sum(total) / len(total))


def test_neighbor_by_hand():
    scores, assignment = views(4, 2, 3)
    total = []
    for i in range(4):
        partner = (i + 2) % 4
        for a in range(2):
            for b in range(2):
                total.append(
                    cross_entropy(scores[i, b].tolist(), assignment[partner, a].tolist(), 0.2)
                )
    got = NeighborClusterLoss()(scores, assignment).item()
    assert got == pytest.approx(sum(total) / len(total))
    with pytest.raises(ValueError, match='positives'):
        NeighborClusterLoss()(scores[:3], assignment[:3])


def patch_case(dtype=torch.float64):
    torch.manual_seed(0)
    global_scores = torch.rand(2, 2, 3, 4, 4, dtype=dtype)
    local_scores = torch.rand(2, 1, 3, 2, 2, dtype=dtype)
    assignment = torch.rand(2, 2, 3, 4, 4, dtype=dtype).softmax(2)
    foreground = torch.ones(2, 2, 4, 4)
    in_global = torch.tensor([0.0, 0.0, 32.0, 32.0]).expand(2, 2, 3, 4).to(dtype)
    sizes = torch.tensor([32.0, 32.0, 16.0])
    in_other = torch.stack([torch.tensor([0.0, 0.0, s, s]) for s in sizes])
    in_other = in_other[None, :, None].expand(2, 3, 2, 4).to(dtype)
    return global_scores, local_scores, assignment, foreground, (in_global, in_other), 8


def test_patch_by_hand():
    """Whole-crop boxes with cells of one patch: every cell is one patch."""
    global_scores, _, assignment, foreground, boxes, patch_size = patch_case()
    foreground[:, 0, :2] = 0  # upper half of the first global crop is background
    boxes = tuple(box[:, :, :2] if i == 0 else box[:, :2] for i, box in enumerate(boxes))
    loss_fn = PatchClusterLoss(roi_size=4)
    got = loss_fn(global_scores, None, assignment, foreground, boxes, patch_size).item()
    means = []
    for g, v in ((0, 1), (1, 0)):
        cells = [
            cross_entropy(
                global_scores[i, v, :, y, x].tolist(), assignment[i, g, :, y, x].tolist(), 0.1
            )
            for i in range(2)
            for y in range(4)
            for x in range(4)
            if foreground[i, g, y, x]
        ]
        means.append(sum(cells) / len(cells))
    assert got == pytest.approx(sum(means) / 2)


def test_patch_by_hand_with_more_global_crops():
    """Each pair uses its own boxes: a quarter of crop 2, whole crops 0 and 1."""
    torch.manual_seed(0)
    scores = torch.rand(1, 3, 4, 2, 2).double()
    assignment = torch.rand(1, 3, 4, 2, 2).double().softmax(2)
    whole = torch.tensor([0.0, 0.0, 16.0, 16.0]).double()
    quarter = torch.tensor(
        [[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0], [0.0, 8.0, 8.0, 16.0]]
    ).double()
    in_global = whole.expand(1, 3, 3, 4).clone()
    in_other = whole.expand(1, 3, 3, 4).clone()
    in_other[0, 2] = quarter  # the box of crop 2 with each crop is another one
    got = PatchClusterLoss(roi_size=1)(
        scores, None, assignment, torch.ones(1, 3, 2, 2), (in_global, in_other), 8
    ).item()
    total = []
    for g, v in ((g, v) for g in range(3) for v in range(3) if v != g):
        patches = scores[0, v].flatten(1)
        predicted = patches[:, g] if v == 2 else patches.mean(dim=1)  # patch g is its box with g
        total.append(
            cross_entropy(predicted.tolist(), assignment[0, g].flatten(1).mean(dim=1).tolist(), 0.1)
        )
    assert got == pytest.approx(sum(total) / 6)


def test_patch_uses_local_crops_and_ignores_scores_under_background():
    case = patch_case()
    loss_fn = PatchClusterLoss(roi_size=4)
    plain = loss_fn(*case)
    case[1].mul_(-1)
    assert loss_fn(*case) != plain
    case[3].zero_()
    assert loss_fn(*case).item() == 0


@pytest.mark.parametrize(
    'loss_fn, shape',
    [
        (ClusterAssignmentLoss(), (5, 3)),
        (ClsClusterLoss(), (2, 2, 3)),
        (NeighborClusterLoss(), (2, 2, 3)),
    ],
)
def test_properties_and_gradient(loss_fn, shape):
    scores, assignment = views(*shape)
    scores.requires_grad_()
    assignment.requires_grad_()
    loss = loss_fn(scores, assignment)
    loss.backward()
    assert scores.grad.any() and assignment.grad is None
    torch.testing.assert_close(
        loss_fn(scores + 0.3, assignment), loss
    )  # adding a constant has no effect
    good = assignment.detach().log() * 0.1  # scores of a perfect prediction
    assert loss_fn(good, assignment) <= loss + 5  # finite and comparable
    assert torch.autograd.gradcheck(lambda x: loss_fn(x, assignment), scores)


def test_right_prediction_is_cheapest():
    assignment = torch.eye(3)
    right, wrong = assignment * 2 - 1, 1 - assignment * 2
    assert ClusterAssignmentLoss()(right, assignment) < ClusterAssignmentLoss()(wrong, assignment)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    scores, assignment = views(6, 4)
    loss = ClusterAssignmentLoss()(scores.to(dtype), assignment.to(dtype))
    assert loss.dtype == torch.float32
    exact = ClusterAssignmentLoss()(scores.to(dtype).double(), assignment.to(dtype).double())
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


def test_bad_input():
    scores, assignment = views(3, 4)
    with pytest.raises(ValueError, match='same shape'):
        ClusterAssignmentLoss()(scores, assignment[:2])
    with pytest.raises(ValueError, match='mask must have shape'):
        ClusterAssignmentLoss()(scores, assignment, torch.ones(4))
    scores[0, 0] = float('nan')
    with pytest.raises(ValueError, match='finite'):
        ClusterAssignmentLoss()(scores, assignment)
    with pytest.raises(ValueError, match='temperature'):
        ClusterAssignmentLoss(0)
