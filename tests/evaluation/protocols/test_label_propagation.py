from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from cotap_mm.evaluation.protocols.davis_scores import boundary_measure, region_similarity
from cotap_mm.evaluation.protocols.propagation import aggregate_labels, frame_size, propagate
from cotap_mm.evaluation.protocols.video_segmentation import label_propagation
from tests.helpers import dense_rank_work
from tests.helpers.dense_rank_work import MemoryClip, moving_clip, noise_clip, paint
from tests.helpers.pixel_scenes import PATCH, PixelEncoder
from tests.helpers.rank_work import on_two_ranks


def aggregate_by_hand(query, context, labels, radius, topk, temperature):
    """One patch, one source, one object at a time."""
    _, height, width = query.shape
    soft = torch.zeros(labels.shape[1], height, width)
    for row in range(height):
        for column in range(width):
            sources = []
            for t in range(len(context)):
                for i in range(max(row - radius, 0), min(row + radius, height - 1) + 1):
                    for j in range(max(column - radius, 0), min(column + radius, width - 1) + 1):
                        cosine = float(query[:, row, column] @ context[t, :, i, j])
                        sources.append((math.exp(cosine / temperature), labels[t, :, i, j]))
            best = sorted(sources, key=lambda source: -source[0])[:topk]
            total = sum(weight for weight, _ in best)
            for weight, label in best:
                soft[:, row, column] += weight / total * label
    return soft


def propagate_by_hand(encoder, frames, mask, values, num_previous, **options):
    """Masks of all frames but the first."""

    def features(image):
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        patches = encoder(((image / 255.0 - mean) / std)[None]).patches[0]
        return patches / patches.norm(dim=0, keepdim=True)

    maps = [features(frame) for frame in frames]
    height, width = maps[0].shape[1:]
    small = np.array(Image.fromarray(mask.byte().numpy()).resize((width, height), Image.NEAREST))
    soft = [torch.stack([torch.from_numpy(small == value).float() for value in values])]
    found = []
    for t in range(1, len(maps)):
        used = [0, *range(max(1, t - num_previous), t)]
        soft.append(
            aggregate_by_hand(
                maps[t],
                torch.stack([maps[i] for i in used]),
                torch.stack([soft[i] for i in used]),
                **options,
            )
        )
        large = torch.nn.functional.interpolate(
            soft[-1][None], scale_factor=PATCH, mode='bilinear'
        )[0]
        for each in large:
            if each.max() > 0:
                each -= each.min().item()
                each /= each.max().item()
        best = torch.tensor(values, dtype=torch.uint8)[large.argmax(dim=0)].numpy()
        found.append(np.array(Image.fromarray(best).resize(mask.shape[::-1], Image.NEAREST)))
    return found


@pytest.mark.parametrize('mask_size', [(16, 16), (32, 8)])
def test_matches_slow_reference(mask_size):
    clip = noise_clip(5, seed=0)
    mask = torch.nn.functional.interpolate(clip.mask(0)[None, None].float(), mask_size)[0, 0].long()
    options = dict(num_previous=2, radius=1, topk=3, temperature=0.2)
    wanted = propagate_by_hand(PixelEncoder(), clip.frames, mask, [0, 1, 2], **options)
    found = list(propagate(PixelEncoder(), clip.frames, mask, image_size=16, **options))
    assert len(found) == 5 and torch.equal(found[0], mask)
    assert len(set(wanted[1].flatten().tolist())) == 3  # not trivial
    for mine, theirs in zip(found[1:], wanted):
        assert np.array_equal(mine.numpy(), theirs)


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    axis = len(shape) - 3
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=axis)


@pytest.mark.parametrize('affinity_size', [1, 600, 2**24])
def test_aggregation_matches_loops_for_any_block_size(monkeypatch, affinity_size):
    monkeypatch.setitem(aggregate_labels.__globals__, 'AFFINITY_SIZE', affinity_size)
    query, context, labels = unit(6, 5, 7), unit(3, 6, 5, 7, seed=1), torch.rand(3, 2, 5, 7)
    options = dict(radius=2, topk=4, temperature=0.1)
    wanted = aggregate_by_hand(query, context, labels, **options)
    torch.testing.assert_close(aggregate_labels(query, context, labels, **options), wanted)
    options['radius'] = 99
    wanted = aggregate_by_hand(query, context, labels, **options)
    torch.testing.assert_close(
        aggregate_labels(query, context, labels, **{**options, 'radius': None}), wanted
    )


def test_ties_are_kept_and_low_temperature_does_not_overflow():
    query, context = torch.ones(1, 1, 4), torch.ones(1, 1, 1, 4)
    labels = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 1, 4)
    assert aggregate_labels(query, context, labels, None, 2, 1e-4).flatten().tolist() == [0.25] * 4


def test_perfect_features_follow_moving_objects():
    found = label_propagation(PixelEncoder(), [moving_clip()], image_size=32)
    for name in ('J&F', 'J', 'F', 'J_recall', 'F_recall'):
        assert found[name] == pytest.approx(100)
    assert found['J_decay'] == pytest.approx(0) and found['num_objects'] == 2
    assert list(found) == [
        'J&F',
        'J',
        'J_recall',
        'J_decay',
        'F',
        'F_recall',
        'F_decay',
        'num_objects',
        'clips',
    ]


def test_constant_features_find_no_object():
    # Features along one axis: cosines are exact, so neighbors tie in any summation order.
    constant = PixelEncoder(
        lambda x: torch.cat([torch.ones_like(x[:, :1]), torch.zeros_like(x[:, 1:])], dim=1)
    )
    found = label_propagation(constant, [moving_clip()], radius=None, topk=64, image_size=32)
    assert found['J&F'] == 0 and found['J_recall'] == 0  # background everywhere


def test_label_moves_at_most_the_radius_per_frame():
    clip = moving_clip(6)
    followed = list(propagate(PixelEncoder(), clip.frames, clip.mask(0), radius=1, image_size=32))
    moved = clip.mask(5) == 1  # five patches away, one per frame
    assert (followed[-1][moved] == 1).all()
    only_first = list(
        propagate(
            PixelEncoder(),
            clip.frames,
            clip.mask(0),
            num_previous=0,
            radius=1,
            topk=1,
            image_size=32,
        )
    )
    assert (only_first[1][clip.mask(1) == 1] == 1).all()
    assert not (only_first[-1][moved] == 1).any()


def test_mean_over_frames_then_over_objects():
    still = MemoryClip(
        [paint(torch.tensor([[1, 0], [0, 0]]))] * 3,
        [torch.tensor(mask) for mask in ([[1, 0], [0, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 0]])],
        name='still',
    )
    found = label_propagation(PixelEncoder(), [still], image_size=8, radius=None)
    assert found['J'] == pytest.approx(100 * (1 / 2 + 0) / 2)
    both = label_propagation(PixelEncoder(), [moving_clip(), still], image_size=32)
    assert both['J'] == pytest.approx((100 + 100 + found['J']) / 3)
    assert both['num_objects'] == 3 and both['clips']['clip'] == pytest.approx(100)
    assert both['J&F'] == pytest.approx((both['J'] + both['F']) / 2)


def test_only_scored_frames_count():
    clip = moving_clip(5, scored=[1, 2, 3])
    clip.all_masks[4] = torch.full_like(clip.mask(4), 2)  # wrong, but the last frame
    assert label_propagation(PixelEncoder(), [clip], image_size=32)['J'] == pytest.approx(100)
    clip.scored = [1, 2, 3, 4]
    assert label_propagation(PixelEncoder(), [clip], image_size=32)['J'] < 90


def test_unknown_pixels_are_neither_propagated_nor_scored():
    mask = torch.tensor([[1, 255], [0, 0]])
    frames = [paint(torch.tensor([[1, 2], [0, 0]]))] * 2
    found = list(propagate(PixelEncoder(), frames, mask.numpy(), image_size=8))
    assert found[1].tolist() == [[1, 0], [0, 0]]
    truth = torch.tensor([[1, 1], [0, 0]])
    score = label_propagation(PixelEncoder(), [MemoryClip(frames, [mask, truth])], image_size=8)
    assert score['J'] == pytest.approx(50)
    both = torch.tensor([[1, 1], [0, 0]])
    ignored = MemoryClip([paint(both)] * 2, [both, torch.tensor([[1, 255], [0, 0]])])
    assert label_propagation(PixelEncoder(), [ignored], image_size=8)['J'] == pytest.approx(100)


def test_class_0_is_scored_if_it_is_not_background():
    clip = moving_clip(3)
    clip.background = False
    assert label_propagation(PixelEncoder(), [clip], image_size=32)['num_objects'] == 3


def test_batch_size_does_not_matter_and_frames_are_read_lazily():
    clip = noise_clip(5, seed=2)
    mask = clip.mask(0)
    one, many = (
        list(propagate(PixelEncoder(), clip.frames, mask, image_size=16, batch_size=size))
        for size in (1, 3)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, many))
    read = []

    class Lazy:
        def __len__(self):
            return 5

        def __getitem__(self, index):
            read.append(index)
            return clip.frames[index]

    masks = propagate(PixelEncoder(), Lazy(), mask, image_size=16, batch_size=2)
    next(masks), next(masks)
    assert read == [0, 1]


def test_frame_size():
    assert frame_size(480, 854, 480, 64) == (480, 832)
    assert frame_size(1080, 1920, 480, 64) == (480, 832)
    assert frame_size(1920, 1080, 480, 64) == (832, 480)
    assert frame_size(480, 480, 480, 64) == (480, 448)
    assert frame_size(10, 12, 8, 64) == (8, 64)
    sizes = []
    encoder = PixelEncoder(lambda patches: sizes.append(tuple(patches.shape[2:])) or patches)
    frames = [torch.zeros(3, 20, 33, dtype=torch.uint8)] * 2
    list(propagate(encoder, frames, torch.ones(20, 33), short_side=16, multiple=8))
    assert set(sizes) == {(16 // PATCH, 24 // PATCH)}


def boundary_by_hand(mask):
    height, width = mask.shape
    edge = set()
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (1, 1)):
                below, right = min(y + dy, height - 1), min(x + dx, width - 1)
                if mask[y, x] != mask[below, right]:
                    edge.add((y, x))
    return edge


def f_by_hand(found, truth):
    reach = math.ceil(0.008 * math.sqrt(found.shape[0] ** 2 + found.shape[1] ** 2))
    a, b = boundary_by_hand(found), boundary_by_hand(truth)
    near = [
        sum(any((y - v) ** 2 + (x - u) ** 2 <= reach**2 for v, u in others) for y, x in own)
        / len(own)
        for own, others in ((a, b), (b, a))
    ]
    return 2 * near[0] * near[1] / sum(near) if sum(near) else 0.0


def test_boundary_measure_matches_loops():
    generator = np.random.default_rng(0)
    for shape in ((12, 17), (90, 110)):  # tolerances 1 and 2
        found, truth = np.zeros(shape, bool), np.zeros(shape, bool)
        found[3:8, 2:9], truth[4:10, 2:12] = True, True
        found ^= generator.random(shape) < 0.003
        wanted = f_by_hand(found, truth)
        assert 0.2 < wanted < 0.99
        assert boundary_measure(found, truth) == pytest.approx(wanted)


def test_known_scores():
    square, shifted, empty = (np.zeros((40, 30), bool) for _ in range(3))  # tolerance 1 pixel
    square[10:20, 10:20] = shifted[11:21, 10:20] = True
    assert boundary_measure(square, shifted) == 1 == boundary_measure(square, square)
    assert boundary_measure(square, np.roll(square, 15, axis=0)) == 0
    assert boundary_measure(empty, square) == 0 == boundary_measure(square, empty)
    assert boundary_measure(empty, empty) == 1 == region_similarity(empty, empty)
    assert region_similarity(square, shifted) == pytest.approx(90 / 110)
    assert region_similarity(square, empty) == 0


def test_recall_and_decay():
    # DAVIS rounds the quarters of 8 scored frames to 1-3, 3-5, 5-6 and 6-8.
    wanted = [1.0, 1, 0.75, 0.75, 0.5, 0.5, 0.25, 0]
    patch = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])
    truths = []
    for share in wanted:
        truth = torch.zeros(2, 4, dtype=torch.long)
        truth[0, : int(4 * share)] = 1
        truths.append(truth)
    clip = MemoryClip([paint(patch)] * 9, [patch, *truths])
    found = label_propagation(PixelEncoder(), [clip], image_size=(8, 16))
    assert found['J'] == pytest.approx(100 * sum(wanted) / 8)
    assert found['J_recall'] == pytest.approx(100 * 4 / 8)
    assert found['J_decay'] == pytest.approx(100 * (2.75 / 3 - 0.75 / 3))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(topk=0), 'topk must be at least 1, got 0'),
        (dict(radius=-1), 'radius must be at least 0'),
        (dict(short_side=0), 'short_side must be at least 1'),
        (dict(temperature=0), 'temperature must be positive'),
        (dict(first_mask=torch.full((4, 4), 255)), 'values besides 255'),
        (dict(first_mask=torch.zeros(3, 4, 4)), r'shape \(H, W\)'),
        (dict(frames=[]), 'at least one frame'),
    ],
)
def test_bad_options(options, message):
    clip = moving_clip(2)
    with pytest.raises(ValueError, match=message):
        propagate(
            PixelEncoder(), **{**dict(frames=clip.frames, first_mask=clip.mask(0)), **options}
        )


def test_bad_clips():
    with pytest.raises(ValueError, match='none of 1 clips has a mask to score'):
        label_propagation(PixelEncoder(), [moving_clip(scored=[])])
    clip = moving_clip(2)
    clip.all_masks[1] = torch.zeros(4, 4)
    with pytest.raises(
        ValueError, match=r'have the size of the first mask, \(8, 8\), got \(4, 4\)'
    ):
        label_propagation(PixelEncoder(), [clip], image_size=32)


@pytest.mark.dist
def test_two_ranks_equal_one(tmp_path):
    """Label propagation, foreground and correspondence."""
    alone = dense_rank_work.scores(0)
    assert len(alone['values']) > 30
    for found in on_two_ranks(dense_rank_work.scores, tmp_path):
        torch.testing.assert_close(found['values'], alone['values'], rtol=1e-6, atol=1e-6)
        assert found['clips'] == alone['clips']
