"""Queues, template bank, filter, head, backbone, pairs and monitors."""

from __future__ import annotations

import pytest
import torch

from cotap_mm.models import (
    DINOViT,
    FeatureQueue,
    ObjectAwareFilter,
    PatchPairSampler,
    PrototypeHead,
    RandomDraws,
    TemplateBank,
)
from cotap_mm.models.modules import (
    AssignmentQueue,
    assignment_monitors,
    feature_std,
    prototypes_in_use,
)


def fifo(size, batches):
    kept = torch.zeros(0, 1)
    for batch in batches:
        kept = torch.cat([batch[:size], kept])[:size]
    return kept


@pytest.mark.parametrize('counts', [[3], [3, 4, 5], [8, 8], [20], [1] * 19])
def test_queue_is_first_in_first_out(counts):
    queue, value, batches = FeatureQueue(8, (1,)), 0, []
    for count in counts:
        batches.append(torch.arange(value, value + count).float()[:, None])
        value += count
        queue.push(batches[-1])
    wanted = fifo(8, batches)
    assert torch.equal(queue.newest_first(), wanted)
    assert len(queue) == len(wanted) and sorted(queue.contents().tolist()) == sorted(
        wanted.tolist()
    )
    assert queue.is_full == (len(wanted) == 8)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('count', [None, 2])
def test_non_finite_rows_do_not_change_the_queue(value, count):
    queue = FeatureQueue(4, (1,))
    count = None if count is None else torch.tensor(count)
    for start in ([], [[1.0], [2.0]]):
        if start:
            queue.push(torch.tensor(start))
        before = {name: buffer.clone() for name, buffer in queue.state_dict().items()}
        queue.push(torch.tensor([[3.0], [value], [4.0]]), count)
        assert all(torch.equal(buffer, before[name]) for name, buffer in queue.state_dict().items())
    queue.push(torch.tensor([[3.0], [4.0], [value]]), torch.tensor(2))  # beyond the count
    assert queue.newest_first().flatten().tolist() == [3, 4, 1, 2]


@pytest.mark.parametrize('size', [4, 8, 20])
def test_queue_state_loads_into_another_size(size):
    queue = FeatureQueue(8, (2,))
    for start in range(0, 12, 3):
        queue.push(torch.arange(start, start + 3).float()[:, None].expand(-1, 2))
    other = FeatureQueue(size, (2,))
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.newest_first(), queue.newest_first()[:size])
    other.push(torch.full((1, 2), 99.0))
    assert other.newest_first()[0, 0] == 99


def test_queue_bad_input():
    with pytest.raises(ValueError, match='size'):
        FeatureQueue(0, (1,))
    with pytest.raises(ValueError, match='rows must have shape'):
        FeatureQueue(4, (2,)).push(torch.zeros(1, 3))


def test_assignment_runs_over_queue_and_batch():
    from cotap_mm.ops import sinkhorn

    queue = AssignmentQueue(16, 4, temperature=0.05, per_step=3)
    first, second = torch.rand(5, 4), torch.rand(6, 4)
    assert not queue.assign(first)[1]
    queue.remember(first, torch.tensor([4, 0, 2, 1, 3]))
    torch.testing.assert_close(queue.newest_scores(), first[[4, 0, 2]])
    assignment, ready = queue.assign(second)
    together = sinkhorn(torch.cat([first[[4, 0, 2]], second]), 0.05)
    assert ready
    torch.testing.assert_close(assignment, together[3:])


def test_assignment_queue_loads_other_temperatures_and_plain_scores():
    scores, batch = torch.rand(9, 4) * 2 - 1, torch.rand(6, 4)

    def filled(temperature):
        queue = AssignmentQueue(16, 4, temperature=temperature, per_step=9)
        queue.remember(scores, torch.arange(9))
        return queue

    wanted = filled(0.1).assign(batch)[0]
    state = filled(0.05).state_dict()
    released = dict(state, features=torch.cat([scores.flip(0), torch.zeros(7, 4)]))
    del released['row_temperature']
    for each, size in ((state, 16), (released, 16), (state, 40), (released, 40)):
        queue = AssignmentQueue(size, 4, temperature=0.1, per_step=9)
        queue.remember(torch.ones(9, 4), torch.arange(9))  # to be overwritten
        queue.load_state_dict(each)
        assert len(queue) == 9
        torch.testing.assert_close(queue.assign(batch)[0], wanted)
        torch.testing.assert_close(queue.newest_scores(), scores)


def test_a_full_bank_takes_a_few_random_templates_a_step():
    bank, grid = TemplateBank(40, channels=2), (3, 3)
    patches = torch.rand(50, 9, 2)
    templates = patches.transpose(1, 2).unflatten(2, grid)
    bank.collect(patches, grid, torch.arange(50))
    assert torch.equal(bank.newest_first(), templates[:40])  # all that fit
    order = RandomDraws().order('template_bank', 50)
    assert sorted(order.tolist()) == list(range(50)) and order.tolist() != list(range(50))
    bank.collect(patches, grid, order)
    assert torch.equal(bank.newest_first(), torch.cat([templates[order[:32]], templates[:8]]))


def test_count_limits_the_stored_rows():
    queue = AssignmentQueue(8, 2, temperature=0.1, per_step=4)
    rows = torch.rand(12, 2)
    for start, count in ((0, 4), (4, 1), (8, 0)):
        queue.remember(rows[start : start + 4], torch.arange(4), torch.tensor(count))
    wanted = torch.cat([rows[4:5], rows[:4]])
    torch.testing.assert_close(queue.newest_scores(), wanted)
    torch.testing.assert_close(queue.features[5:], torch.zeros(3, 2))


def test_foreground_patches_are_random_and_foreground():
    foreground = torch.zeros(50, dtype=torch.bool)
    foreground[10:20] = True
    draws, seen = RandomDraws(), set()
    for _ in range(50):
        chosen, count = draws.foreground_patches(foreground, 4)
        assert count == 4 and len(set(chosen.tolist())) == 4 and foreground[chosen].all()
        seen.update(chosen.tolist())
    assert seen == set(range(10, 20))
    chosen, count = draws.foreground_patches(foreground, 30)
    assert count == 10 and sorted(chosen[:10].tolist()) == list(range(10, 20))


def test_bank_takes_all_crops_until_full_then_a_few():
    bank = TemplateBank(8, channels=2, per_step=3)
    patches = torch.randn(5, 16, 2)
    bank.collect(patches, (4, 4), torch.arange(5))
    assert len(bank) == 5
    pooled = torch.nn.functional.adaptive_avg_pool2d(patches.transpose(1, 2).reshape(5, 2, 4, 4), 3)
    torch.testing.assert_close(bank.newest_first(), pooled)
    bank.collect(patches, (4, 4), torch.arange(5))
    assert bank.is_full
    bank.collect(patches + 100, (4, 4), torch.arange(5))
    assert (bank.contents().mean(dim=(1, 2, 3)) > 50).sum() == 3


def slow_filter(neck, block, patches, grid):
    """Reference in loops over patches, heads and cells."""
    width, heads = neck.in_channels, block.attn.num_heads
    height, breadth = grid
    weight, bias = block.attn.qkv.weight, block.attn.qkv.bias
    query = block.ln1(patches) @ weight[:width].T + bias[:width]
    cells = neck.norm_prototypes(neck.prototypes.permute(0, 2, 3, 1))  # (M, 3, 3, d)
    key = cells @ weight[width : 2 * width].T + bias[width : 2 * width]
    value = (cells @ weight[2 * width :].T + bias[2 * width :]).mean(dim=(1, 2))
    out = torch.zeros_like(patches)
    part = width // heads
    for y in range(height):
        for x in range(breadth):
            for h in range(heads):
                channel = slice(h * part, (h + 1) * part)
                logits = torch.zeros(neck.num_prototypes)
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        if 0 <= y + dy < height and 0 <= x + dx < breadth:
                            q = query[(y + dy) * breadth + x + dx, channel]
                            logits = logits + key[:, dy + 1, dx + 1, channel] @ q
                attention = (logits * neck.num_prototypes**-0.5).softmax(0)
                out[y * breadth + x, channel] = attention @ value[:, channel]
    filtered = patches + block.attn.proj(out)
    filtered = filtered + block.ffn.layers(block.ln2(filtered))
    return neck.norm_patch(torch.cat([patches, filtered], dim=-1))


@torch.no_grad()
def test_filter_matches_loops_on_a_grid_that_is_not_square():
    torch.manual_seed(0)
    vit = DINOViT(
        arch=dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=16),
        img_size=32,
        patch_size=8,
    )
    neck = ObjectAwareFilter(8, num_prototypes=3)
    torch.nn.init.normal_(neck.prototypes)
    tokens = torch.randn(1, 1 + 3 * 5, 8)
    cls, patches = neck(tokens, (3, 5), vit.last_block)
    wanted = slow_filter(neck, vit.last_block, tokens[0, 1:], (3, 5))
    torch.testing.assert_close(patches[0], wanted, rtol=1e-4, atol=1e-5)
    assert cls.shape == (1, 16)


def test_layer_norms_of_the_filter_have_the_epsilon_of_the_method():
    neck = ObjectAwareFilter(8, num_prototypes=3)
    for norm in (neck.norm_patch, neck.norm_cls, neck.norm_prototypes):
        values = 1e-3 * torch.tensor([1.0, -1.0]).repeat(norm.normalized_shape[0] // 2)
        wanted = values / (values.var(unbiased=False) + 1e-6).sqrt()
        torch.testing.assert_close(norm(values), wanted)


def test_head_scores_are_cosines():
    head = PrototypeHead(8, 5, hidden_channels=12, out_channels=4)
    features = torch.randn(3, 8)
    embedding = head.mlp(features)
    wanted = torch.nn.functional.cosine_similarity(embedding[:, None], head.centers[None], dim=-1)
    torch.testing.assert_close(head(features), wanted)
    head.centers.data.mul_(3)
    torch.testing.assert_close(head(features), wanted)


def test_vit_tokens_and_attention():
    torch.manual_seed(0)
    vit = DINOViT(
        arch=dict(embed_dims=8, num_layers=3, num_heads=2, feedforward_channels=16),
        img_size=32,
        patch_size=8,
        out_indices=[0, 2],
    )
    images = torch.randn(2, 3, 48, 24)
    entering, leaving, grid = vit.forward_tokens(images)
    assert grid == (6, 3)
    torch.testing.assert_close(vit.last_block(entering), leaving)
    torch.testing.assert_close(vit(images)[1], leaving)
    qkv = vit.last_block.attn.qkv(vit.last_block.ln1(entering)).reshape(2, 19, 3, 2, 4)
    query, key = qkv[:, 0, 0], qkv[:, :, 1]
    wanted = (torch.einsum('bhc,bnhc->bhn', query, key) / 2).softmax(-1)[..., 1:]
    torch.testing.assert_close(vit.cls_attention(entering), wanted)
    with pytest.raises(ValueError, match='final norm'):
        DINOViT(final_norm=True)


def test_pairs_compare_the_right_patches():
    student = torch.randn(4, 1, 5, 2, 2)  # 2 images, 2 positives
    foreground = torch.zeros(4, 1, 2, 2)
    foreground[:, 0, 1, 0] = 1  # patch 2 of each
    sampler = PatchPairSampler(pool_sizes=(2,), topk=1, num_negatives=3)
    ((pred, target, is_neighbor),) = sampler(student, -2 * student, foreground)
    tokens = torch.nn.functional.normalize(student[:, 0, :, 1, 0], dim=-1)
    wanted = torch.stack(
        [tokens[0] @ tokens[2], tokens[1] @ tokens[3], tokens[0] @ tokens[3], tokens[1] @ tokens[2]]
    )
    torch.testing.assert_close(pred, wanted)
    torch.testing.assert_close(target, wanted)
    assert is_neighbor.tolist() == [True, True, False, False]


def test_all_patches_can_be_ranked():
    student, teacher = torch.randn(2, 6, 2, 5, 4, 4).unbind(0)  # 3 images, 3 positives, 2 crops
    foreground = torch.rand(6, 2, 4, 4) > 0.5
    sampler = PatchPairSampler(pool_sizes=(2, 4), topk=None, num_negatives=2)
    sizes = []
    for (pred, target, is_neighbor), size in zip(sampler(student, teacher, foreground), (2, 4)):
        tokens = torch.nn.functional.adaptive_avg_pool2d(student.flatten(0, 1), size)
        tokens = torch.nn.functional.normalize(tokens.flatten(2).transpose(1, 2), dim=-1)
        tokens = tokens.reshape(6, -1, 5)  # (images, tokens of both crops, channels)
        wanted = tokens[:3] @ tokens[3:].transpose(1, 2)
        torch.testing.assert_close(pred[is_neighbor], wanted.flatten())
        assert len(pred) == len(target) == 3 * (2 * size**2) ** 2 * 3
        sizes.append(len(pred))
    assert sizes[0] < sizes[1]
    with pytest.raises(ValueError, match='topk must be an integer >= 1, or None'):
        PatchPairSampler(topk=0)


def test_statistics_are_exact_in_mixed_precision():
    torch.manual_seed(0)
    tokens, assignment = torch.randn(6, 16, 8), torch.rand(20, 5)
    attention = torch.rand(4, 6, 30, 200).bfloat16()

    def work():
        bank = TemplateBank(8, channels=8)
        bank.collect(tokens, (4, 4), torch.arange(6))
        return [
            bank.contents(),
            *assignment_monitors(assignment).values(),
            feature_std(tokens.flatten(0, 1)),
            prototypes_in_use(attention),
        ]

    wanted = [*work()[:-1], prototypes_in_use(attention.float())]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = work()
    assert all(torch.equal(one, other) for one, other in zip(got, wanted))


def test_monitors_at_their_limits():
    collapsed = torch.eye(4)[:1].expand(10, -1)
    values = assignment_monitors(collapsed)
    assert values['mean_assignment_entropy'] == 0 and values['assignment_entropy'] == 0
    balanced = torch.eye(4).repeat(5, 1)
    values = assignment_monitors(balanced)
    assert values['mean_assignment_entropy'].item() == pytest.approx(1)
    assert values['assignment_entropy'] == 0
    assert feature_std(torch.ones(9, 4)) == pytest.approx(0, abs=1e-3)
    assert feature_std(torch.cat([torch.eye(4), -torch.eye(4)])).item() == pytest.approx(1)
    attention = torch.zeros(1, 1, 3, 4)
    attention[..., 2] = 1
    assert prototypes_in_use(attention).item() == 0.25


@pytest.mark.parametrize('size', [4, 16])
def test_redistributed_queue_converts_rows_and_keeps_the_newest(size):
    scores = torch.rand(2, 9, 4) * 2 - 1
    parts = []
    for rank in range(2):
        queue = AssignmentQueue(16, 4, temperature=0.05, per_step=9)
        queue.remember(scores[rank], torch.arange(9))
        parts.append(queue.state_dict())
    queue = AssignmentQueue(size, 4, temperature=0.1, per_step=9)
    queue.redistribute(parts, rank=0, world_size=1)
    newest = scores.transpose(0, 1).flatten(0, 1)[:size]  # newest of each rank first
    torch.testing.assert_close(queue.newest_scores(), newest)
