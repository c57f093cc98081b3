"""Sinkhorn, foreground, k-means, boxes, negatives, position embeddings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cotap_mm import ops
from cotap_mm.ops.nearest import nearest


def test_sinkhorn_by_hand():
    scores = torch.rand(6, 3).double() * 2 - 1
    q = [[torch.exp(s / 0.1).item() for s in row] for row in scores]
    for _ in range(3):
        columns = [sum(row[k] for row in q) for k in range(3)]
        q = [[x / c for x, c in zip(row, columns)] for row in q]
        q = [[x / sum(row) for x in row] for row in q]
    torch.testing.assert_close(ops.sinkhorn(scores, 0.1), torch.tensor(q).double())


def test_sinkhorn_balances_and_survives_large_logits():
    scores = torch.rand(64, 4) + 4  # exp(5 / 0.05) overflows without the shift
    assignment = ops.sinkhorn(scores, 0.05)
    assert torch.isfinite(assignment).all()
    torch.testing.assert_close(assignment.sum(1), torch.ones(64))
    balanced = ops.sinkhorn(torch.rand(64, 4), 0.5, num_iters=50)
    torch.testing.assert_close(balanced.sum(0), torch.full((4,), 16.0), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    'args, message',
    [
        ((torch.rand(3), 0.1), 'shape'),
        ((torch.rand(3, 2), 0.0), 'temperature'),
        ((torch.rand(3, 2), 0.1, 0), 'num_iters'),
    ],
)
def test_sinkhorn_bad_input(args, message):
    with pytest.raises(ValueError, match=message):
        ops.sinkhorn(*args)


@settings(max_examples=25, deadline=None)
@given(side=st.integers(1, 9), mass=st.floats(0.05, 1.0), seed=st.integers(0, 99))
def test_foreground_is_the_smallest_set_that_holds_the_mass(side, mass, seed):
    torch.manual_seed(seed)
    attention = torch.rand(1, 2, side, side + 1, dtype=torch.float64)
    mask = ops.foreground_mask(attention, mass=mass, sigma=1e-3)[0]  # sigma ~ 0: no blur
    weight = attention.mean(1)[0] / attention.mean(1).sum()
    kept = weight[mask]
    assert mask.any()
    assert kept.sum() >= mass - 1e-9
    assert kept.sum() - kept.min() <= mass + 1e-9  # too little without its weakest patch
    assert not (~mask).any() or weight[~mask].max() <= kept.min()


def test_foreground_of_uniform_attention_keeps_a_patch():
    assert ops.foreground_mask(torch.ones(2, 3, 4, 4)).flatten(1).any(1).all()


@pytest.mark.parametrize('kwargs, message', [(dict(mass=0.0), 'mass'), (dict(sigma=0.0), 'sigma')])
def test_foreground_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ops.foreground_mask(torch.rand(1, 1, 4, 4), **kwargs)
    with pytest.raises(ValueError, match='shape'):
        ops.foreground_mask(torch.rand(1, 4, 4))


def test_local_median_against_loops():
    torch.manual_seed(0)
    for height, width in ((5, 7), (2, 3), (1, 4), (1, 1)):
        maps = torch.rand(2, height, width)
        wanted = torch.empty_like(maps)
        for b, i, j in torch.cartesian_prod(*map(torch.arange, maps.shape)).view(-1, 3).tolist():
            window = [
                maps[b, min(max(i + di, 0), height - 1), min(max(j + dj, 0), width - 1)].item()
                for di in (-1, 0, 1)
                for dj in (-1, 0, 1)
            ]
            wanted[b, i, j] = sorted(window)[4]
        assert torch.equal(ops.local_median(maps), wanted)


def _boxes(count):
    return torch.rand(count, 3, 4).sort(dim=-1).values[..., [0, 1, 3, 2]] * 100


#: What compares, sums or thresholds, and so must not be rounded in mixed precision.
EXACT = dict(
    foreground_mask=lambda: ops.foreground_mask(torch.rand(50, 6, 14, 14).pow(4)),
    foreground_mask_of_a_narrow_grid=lambda: ops.foreground_mask(torch.rand(50, 6, 2, 3)),
    local_median=lambda: ops.local_median(torch.rand(2, 14, 14)),
    roi_pool=lambda: ops.roi_pool(torch.randn(2, 3, 14, 14), _boxes(2), 16),
    common_boxes=lambda: torch.stack(ops.common_boxes(_boxes(2), [224, 224, 96], 3)),
    sinkhorn=lambda: ops.sinkhorn(torch.rand(20, 5), 0.05),
    spherical_kmeans=lambda: ops.spherical_kmeans(torch.randn(500, 6), 20),
    position=lambda: ops.resize_position_embedding(torch.randn(1, 17, 8), (4, 4), (6, 3)),
    discordance=lambda: ops.discordance(torch.randn(20), torch.randn(20), 0.5),
    sorted_ranks=lambda: torch.stack(
        ops.rank_statistics(torch.randn(20), torch.randn(20), 0.5, 'sorted')
    ),
    nearest=lambda: torch.cat(nearest(torch.randn(9, 16), torch.randn(50, 16), 5)),
)


@pytest.mark.parametrize('name', EXACT)
def test_mixed_precision_does_not_change_a_bit(name):
    results = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            results.append(EXACT[name]())
    assert results[0].dtype == results[1].dtype and torch.equal(*results)


def test_roi_pool_of_half_precision_keeps_the_boxes():
    maps, boxes = torch.randn(300, 1, 6, 6).bfloat16(), _boxes(300)
    cells = ops.roi_pool(maps, boxes, 16)
    assert torch.equal(cells, ops.roi_pool(maps.float(), boxes, 16))


def test_kmeans_finds_directions_and_resets_empty_clusters():
    torch.manual_seed(0)
    axes = F.normalize(torch.randn(4, 16), dim=1)
    samples = axes.repeat_interleave(20, 0) + 0.01 * torch.randn(80, 16)
    best = max(
        (ops.spherical_kmeans(samples, 4) @ axes.T).max(0).values.min() for _ in range(8)
    )  # best of eight random starts
    assert best > 0.99
    same = torch.ones(
        10, 3
    )  # equal samples: all centers but one are reset and must keep unit length
    torch.testing.assert_close(ops.spherical_kmeans(same, 3).norm(dim=1), torch.ones(3))
    with pytest.raises(ValueError, match='num_clusters'):
        ops.spherical_kmeans(samples, 81)


def test_common_boxes_by_hand():
    boxes = torch.tensor(
        [[[0.0, 0.0, 100.0, 100.0], [50.0, 0.0, 150.0, 100.0], [60.0, 20.0, 80.0, 40.0]]]
    )
    in_global, in_other = ops.common_boxes(boxes, [200, 200, 40], 2)
    assert in_global.shape == (1, 2, 3, 4) and in_other.shape == (1, 3, 2, 4)
    assert in_global[0, 0, 0].tolist() == [0, 0, 200, 200]
    assert in_global[0, 0, 1].tolist() == [100, 0, 200, 200]
    assert in_other[0, 1, 0].tolist() == [0, 0, 100, 200]
    assert in_global[0, 1, 2].tolist() == [20, 40, 60, 80]
    assert in_other[0, 2, 1].tolist() == [0, 0, 40, 40]


def test_common_boxes_of_disjoint_crops_are_empty():
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]]])
    in_global, _ = ops.common_boxes(boxes, [8, 8], 1)
    x1, y1, x2, y2 = in_global[0, 0, 1]
    assert x1 == x2 and y1 == y2


def test_common_boxes_bad_input():
    with pytest.raises(ValueError, match='crop sizes'):
        ops.common_boxes(torch.rand(1, 3, 4), [8, 8], 1)


def test_roi_pool_reads_a_linear_map_exactly():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)  # value = column
    cells = ops.roi_pool(ramp, torch.tensor([[[32.0, 32.0, 96.0, 96.0]]]), patch_size=16, size=4)
    torch.testing.assert_close(cells[0, 0, 0, 0], torch.tensor([2.0, 3.0, 4.0, 5.0]))


@settings(max_examples=30, deadline=None)
@given(num_images=st.integers(1, 12), wanted=st.integers(0, 8), seed=st.integers(0, 99))
def test_negatives_are_distinct_other_images(num_images, wanted, seed):
    torch.manual_seed(seed)
    drawn = ops.sample_negatives(num_images, wanted)
    assert drawn.shape == (min(wanted, num_images - 1), num_images)
    for image in range(num_images):
        others = drawn[:, image].tolist()
        assert image not in others and len(set(others)) == len(others)
    for row in drawn:
        assert sorted(row.tolist()) == list(range(num_images))


def test_position_embedding_resize():
    pos = torch.randn(1, 17, 8)
    assert ops.resize_position_embedding(pos, (4, 4), (4, 4)) is pos
    resized = ops.resize_position_embedding(pos, (4, 4), (6, 3))
    assert resized.shape == (1, 19, 8)
    torch.testing.assert_close(resized[:, 0], pos[:, 0])
    with pytest.raises(ValueError, match='17 tokens'):
        ops.resize_position_embedding(pos, (5, 5), (4, 4))
