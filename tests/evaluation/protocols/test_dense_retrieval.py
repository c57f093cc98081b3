from __future__ import annotations

import math

import pytest
import torch

from cotap_mm.evaluation import ImageMaskFolder, LabeledSet, dense_retrieval
from cotap_mm.evaluation.protocols.dense_retrieval import (
    AugmentedImages,
    build_memory,
    patch_labels,
    retrieve_labels,
)
from cotap_mm.ops.nearest import nearest
from tests.helpers.pixel_scenes import PATCH, PixelEncoder, labels_of_patch, noise_scenes, scenes


def by_hand(encoder, memory, queries, num_classes, k, temperature):
    """One patch, one neighbor, one pixel at a time; labels have the size of the images."""

    def unit_patches(sample):
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        patches = encoder(((sample['image'] / 255.0 - mean) / std)[None]).patches[0]
        return patches / patches.norm(dim=0, keepdim=True)

    bank = []
    for sample in memory:
        features = unit_patches(sample)
        for row in range(features.shape[1]):
            for column in range(features.shape[2]):
                cell = labels_of_patch(sample, row, column)
                if cell:
                    share = [cell.count(c) / len(cell) for c in range(num_classes)]
                    bank.append((features[:, row, column], share))
    hits, unions = [0] * num_classes, [0] * num_classes
    for sample in queries:
        features = unit_patches(sample)
        soft = torch.zeros(1, num_classes, *features.shape[1:])
        for row in range(features.shape[1]):
            for column in range(features.shape[2]):
                scored = sorted(
                    ((float(f @ features[:, row, column]), share) for f, share in bank),
                    key=lambda pair: -pair[0],
                )[:k]
                weights = [math.exp(score / temperature) for score, _ in scored]
                for weight, (_, share) in zip(weights, scored):
                    for c in range(num_classes):
                        soft[0, c, row, column] += weight / sum(weights) * share[c]
        large = torch.nn.functional.interpolate(soft, sample['label'].shape, mode='bilinear')
        for guess, truth in zip(
            large[0].argmax(0).flatten().tolist(), sample['label'].flatten().tolist()
        ):
            for c in range(num_classes):
                if truth != 255:
                    hits[c] += guess == c and truth == c
                    unions[c] += guess == c or truth == c
    return [100 * hit / union for hit, union in zip(hits, unions)]


def test_matches_slow_reference():
    encoder = PixelEncoder()
    memory, queries = noise_scenes(3), noise_scenes(2, seed=1)
    wanted = by_hand(encoder, memory, queries, 3, k=5, temperature=0.1)
    found = dense_retrieval(
        encoder,
        LabeledSet(memory, 3, batch_size=2),
        LabeledSet(queries, 3, batch_size=2),
        k=5,
        temperature=0.1,
    )
    assert found['IoU'] == pytest.approx(wanted, abs=1e-9)
    assert found['mIoU'] == pytest.approx(sum(wanted) / 3)


def test_several_encoders_score_as_each_alone():
    encoders = [PixelEncoder(), PixelEncoder(torch.abs), PixelEncoder(lambda color: color[:, :2])]
    memory, queries = LabeledSet(noise_scenes(3), 3), LabeledSet(noise_scenes(2, seed=1), 3)
    options = dict(k=5, memory_size=20)
    found = dense_retrieval(encoders, memory, queries, **options)
    assert found == [dense_retrieval(encoder, memory, queries, **options) for encoder in encoders]
    assert len({scores['mIoU'] for scores in found}) == 3
    encoders[1].patch_size = 2 * PATCH
    for wrong, sizes in ((encoders, r'\[4, 8\]'), ([], r'\[\]')):
        with pytest.raises(ValueError, match=f'all of one patch size, got patch sizes {sizes}'):
            dense_retrieval(wrong, memory, queries, **options)


def test_perfect_features_score_100():
    # Labels on the patch grid, so upsampling does not blur borders.
    queries = [dict(s, label=s['label'][::PATCH, ::PATCH]) for s in scenes(3, seed=1)]
    found = dense_retrieval(PixelEncoder(), LabeledSet(scenes(6), 3), LabeledSet(queries, 3), k=8)
    assert found['mIoU'] == pytest.approx(100) and found['aAcc'] == pytest.approx(100)
    assert found['num_memory'] == 6 * 16


def test_uninformative_features_score_at_chance():
    generator = torch.Generator().manual_seed(0)
    noise = PixelEncoder(lambda x: torch.randn(x.shape, generator=generator))
    found = dense_retrieval(noise, LabeledSet(scenes(6), 3), LabeledSet(scenes(20, seed=1), 3), k=1)
    assert found['aAcc'] == pytest.approx(100 / 3, abs=8)
    constant = PixelEncoder(torch.ones_like)
    found = dense_retrieval(
        constant, LabeledSet(scenes(6), 3), LabeledSet(scenes(20, seed=1), 3), k=96
    )
    assert found['aAcc'] == pytest.approx(100 / 3, abs=8)  # one class for all pixels
    assert found['mIoU'] == pytest.approx(100 / 9, abs=4)


def test_ignored_pixels_are_excluded_from_memory_and_queries():
    memory, queries = scenes(4), scenes(2, seed=1)
    wanted = dense_retrieval(PixelEncoder(), LabeledSet(memory, 3), LabeledSet(queries, 3), k=4)
    memory[0]['label'] = torch.full_like(memory[0]['label'], 255)
    queries.append(dict(image=queries[0]['image'], label=torch.full((16, 16), 255)))
    found = dense_retrieval(PixelEncoder(), LabeledSet(memory, 3), LabeledSet(queries, 3), k=4)
    assert found['num_memory'] == 3 * 16
    assert found['IoU'] == pytest.approx(wanted['IoU'])


def test_absent_class_is_nan_and_excluded_from_the_mean():
    found = dense_retrieval(
        PixelEncoder(), LabeledSet(scenes(4), 5), LabeledSet(scenes(2, seed=1), 5), k=4
    )
    assert math.isnan(found['IoU'][3]) and math.isnan(found['IoU'][4])
    assert found['mIoU'] == pytest.approx(sum(found['IoU'][:3]) / 3)


@pytest.mark.parametrize('block_size', [1, 3, 7, 20, 64])
def test_block_size_does_not_matter(block_size):
    queries, memory = torch.randn(11, 6), torch.randn(20, 6)
    wanted = (queries @ memory.T).topk(5, dim=1)
    similarity, index = nearest(queries, memory, 5, block_size)
    torch.testing.assert_close(similarity, wanted.values)
    assert torch.equal(index, wanted.indices)


def test_equal_neighbors_have_equal_weight():
    shares = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    soft = retrieve_labels(torch.ones(1, 2, 1, 1), torch.full((3, 2), 0.5**0.5), shares, 3, 0.02)
    assert soft.flatten().tolist() == pytest.approx([1 / 3, 2 / 3])


@pytest.mark.parametrize('memory_size', [1, 7, 30, 64, 1000])
def test_memory_has_exactly_the_requested_size(memory_size):
    bank, shares = build_memory(PixelEncoder(), LabeledSet(scenes(4), 3), memory_size)
    assert len(bank) == len(shares) == min(memory_size, 64)


def test_memory_depends_on_the_seed_and_not_on_global_state():
    encoder, memory = PixelEncoder(), noise_scenes(4)
    state = torch.random.get_rng_state()
    draws = [build_memory(encoder, LabeledSet(memory, 3), 12, seed=seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(state, torch.random.get_rng_state())


def test_rare_classes_stay_in_a_small_memory():
    label = torch.zeros(40, 40, dtype=torch.long)
    label[:PATCH, :PATCH] = 1  # one of 100 patches
    memory = [dict(image=torch.zeros(3, 40, 40, dtype=torch.uint8), label=label)] * 50
    _, shares = build_memory(PixelEncoder(torch.ones_like), LabeledSet(memory, 2), 500)
    assert shares[:, 1].sum() > 25  # uniform sampling would keep 5


def test_patch_labels_of_an_uneven_grid():
    label = torch.tensor([[0, 0, 1], [0, 255, 1], [1, 1, 255]])
    found = patch_labels(label, (2, 2), 2)  # rows and columns {0, 1} and {2}
    assert found.tolist() == [[1, 0], [0, 1], [0, 1], [0, 0]]


def test_images_of_different_sizes():
    mixed = scenes(3) + scenes(2, grid=6) + scenes(1)
    found = dense_retrieval(PixelEncoder(), LabeledSet(mixed, 3), LabeledSet(mixed, 3), k=4)
    assert found['num_memory'] == 4 * 16 + 2 * 36
    found = dense_retrieval(
        PixelEncoder(),
        LabeledSet(mixed, 3, image_size=16, batch_size=6),
        LabeledSet(mixed, 3, image_size=16, batch_size=6),
        k=4,
    )
    assert found['num_memory'] == 6 * 16


def test_bad_input():
    memory = scenes(1)
    with pytest.raises(ValueError, match=r'1\.\.16 .*got 30.*more memory'):
        dense_retrieval(PixelEncoder(), LabeledSet(memory, 3), LabeledSet(memory, 3))
    with pytest.raises(ValueError, match='check num_classes'):
        dense_retrieval(PixelEncoder(), LabeledSet(memory, 2), LabeledSet(memory, 2), k=1)
    with pytest.raises(ValueError, match='temperature'):
        dense_retrieval(PixelEncoder(), LabeledSet(memory, 3), LabeledSet(memory, 3), temperature=0)
    with pytest.raises(ValueError, match='1 and 0'):
        dense_retrieval(PixelEncoder(), LabeledSet(memory, 3), LabeledSet([], 3))
    with pytest.raises(ValueError, match='memory_size'):
        dense_retrieval(PixelEncoder(), LabeledSet(memory, 3), LabeledSet(memory, 3), memory_size=0)
    void = [dict(memory[0], label=torch.full((16, 16), 255))]
    with pytest.raises(ValueError, match='no patch with a labeled pixel'):
        dense_retrieval(PixelEncoder(), LabeledSet(void, 3), LabeledSet(memory, 3))


def test_runs_on_real_frames(shared_data):
    folder = shared_data / 'data' / 'camvid'

    def split(name):
        return ImageMaskFolder(folder / 'images' / name, folder / 'labels' / name, limit=2)

    found = dense_retrieval(
        PixelEncoder(),
        LabeledSet(split('train'), 11, image_size=(90, 120)),
        LabeledSet(split('val'), 11, image_size=(90, 120)),
        memory_size=500,
    )
    assert found['num_memory'] == 500
    assert 0 < found['mIoU'] < 100


def test_faiss_gives_the_same_result():
    queries = noise_scenes(2, seed=1)
    exact = dense_retrieval(
        PixelEncoder(), LabeledSet(noise_scenes(3), 3), LabeledSet(queries, 3), k=5
    )
    found = dense_retrieval(
        PixelEncoder(),
        LabeledSet(noise_scenes(3), 3),
        LabeledSet(queries, 3),
        k=5,
        faiss_index='Flat',
    )
    assert found['mIoU'] == pytest.approx(exact['mIoU'])
    rough = dense_retrieval(
        PixelEncoder(),
        LabeledSet(scenes(6), 3),
        LabeledSet(scenes(2, seed=1), 3),
        k=5,
        faiss_index='IVF2,Flat',
    )
    assert rough['aAcc'] > 60
    with pytest.raises(ValueError, match="index 'Nonsense' for 48 rows of width 3; try 'Flat'"):
        dense_retrieval(
            PixelEncoder(),
            LabeledSet(noise_scenes(3), 3),
            LabeledSet(queries, 3),
            k=5,
            faiss_index='Nonsense',
        )


def test_augmented_memory():
    state = torch.get_rng_state()
    plain = AugmentedImages(scenes(2), 3, None, seed=0)
    samples = [plain[i] for i in range(len(plain))]
    assert len(samples) == 6 and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(plain[i]['image'], samples[i]['image']) for i in (0, 5))
    assert not torch.equal(samples[0]['image'], samples[2]['image'])
    image, label = samples[1]['image'].float(), samples[1]['label']
    sure = image.max(dim=0).values > 240  # pixels that are not blurred by the crop
    assert sure.float().mean() > 0.3
    # The strongest channel is the class, so image and label are cropped alike.
    assert torch.equal(image.argmax(dim=0)[sure], label[sure])
    found = dense_retrieval(
        PixelEncoder(),
        LabeledSet(scenes(4), 3),
        LabeledSet(scenes(3, seed=1), 3),
        k=8,
        augmentation_epochs=2,
    )
    assert found['num_memory'] == 2 * 4 * 16 and found['aAcc'] > 80
