"""Samples of an image and a neighbor: bad images are replaced; draws are new and reproducible."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS as ROOT_DATASETS
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from cotap_mm.datasets import NeighborPairs, Visit
from cotap_mm.registry import DATA_SAMPLERS, DATASETS
from tests.helpers.tiny import build_tiny

CROPS = dict(global_size=32, local_size=16)


@pytest.fixture
def pairs(arrays, ring):
    """Data set of ``count`` in-memory images; neighbors of i are i + 1, i + 2, i + 3."""

    def make(count=10, bad=(), **options):
        source = arrays(count, bad)
        return NeighborPairs(source, ring(source.names), num_neighbors=3, crops=CROPS, **options)

    return make


def numbers(sample, branch='patch'):
    return [int(name[:3]) for name in sample[branch]['path']]


def drawn_pairs(data, index, times):
    """Draw image and positive several times, without cropping."""
    rng = np.random.default_rng(0)
    return [
        tuple(position for position, _ in data.branches['patch'].draw_pair(index, rng))
        for _ in range(times)
    ]


def test_shapes_and_types(pairs):
    sample = pairs()[0]
    assert set(sample) == {'patch', 'cls'}
    for branch in sample.values():
        assert branch['global_crops'].shape == (2, 2, 32, 32, 3)
        assert branch['local_crops'].shape == (2, 4, 16, 16, 3)
        assert branch['boxes'].shape == (2, 6, 4) and branch['boxes'].dtype == torch.float32
        assert branch['global_crops'].dtype == branch['local_crops'].dtype == torch.uint8
        assert len(branch['path']) == 2


def test_crops_belong_to_the_images_in_path(pairs):
    data = pairs()
    for i in range(len(data)):
        for branch in data[i].values():
            for crops in (branch['global_crops'], branch['local_crops']):
                assert [int(part.unique()) for part in crops] == numbers(dict(patch=branch))


def test_the_positive_is_one_of_the_nearest(pairs):
    data = pairs()
    for i in range(10):
        image, positive = numbers(data[i])
        assert image == i and (positive - image) % 10 in (1, 2, 3)


def test_all_neighbors_are_equally_likely(pairs):
    drawn = [positive for _, positive in drawn_pairs(pairs(), 4, 1500)]
    assert set(drawn) == {5, 6, 7} and min(drawn.count(i) for i in (5, 6, 7)) > 430


def test_both_branches_draw_separately_from_one_source(pairs):
    data = pairs()
    assert data.branches['patch'] is data.branches['cls'] and len(data) == 10
    samples = [data[i] for i in range(10)]
    assert all(numbers(s)[0] == numbers(s, 'cls')[0] for s in samples)
    assert any(numbers(s)[1] != numbers(s, 'cls')[1] for s in samples)
    assert all(not torch.equal(s['patch']['boxes'], s['cls']['boxes']) for s in samples)


def test_an_image_of_both_branches_is_decoded_once(arrays, ring):
    one, patch, cls = (arrays(10) for _ in range(3))
    options = dict(num_neighbors=3, crops=CROPS)
    shared = NeighborPairs(one, ring(one.names), **options)
    separate = NeighborPairs(
        patch, ring(patch.names), cls, ring(cls.names, name='b.npz'), **options
    )
    for index in range(10):
        key = Visit(index=index, count=0, seed=0)
        for source in (one, patch, cls):
            source.reads.clear()
        got, wanted = shared[key], separate[key]
        for branch, crops in got.items():
            for name, value in crops.items():
                expected = wanted[branch][name]
                assert value == expected if name == 'path' else value.equal(expected)
        assert sorted(one.reads) == sorted({*patch.reads, *cls.reads})
        assert index in patch.reads and index in cls.reads


def test_the_shorter_branch_is_indexed_modulo(arrays, ring):
    patch, cls = arrays(4), arrays(7)
    data = NeighborPairs(
        patch,
        ring(patch.names, name='patch.npz'),
        cls,
        ring(cls.names, name='cls.npz'),
        num_neighbors=3,
        crops=CROPS,
    )
    assert len(data) == 7
    assert [numbers(data[i])[0] for i in range(7)] == [0, 1, 2, 3, 0, 1, 2]
    assert [numbers(data[i], 'cls')[0] for i in range(7)] == [*range(7)]


def test_built_from_a_config(photos, ring):
    names = ['a.png', 'b.jpg', 'c.PNG', 'd.jpeg', 'more/a.png', 'more/e.webp']
    data = DATASETS.build(
        dict(
            type='NeighborPairs',
            patch=dict(type='ImageList', root=str(photos)),
            neighbors=ring(names),
            num_neighbors=2,
            crops=CROPS,
        )
    )
    assert data[4]['patch']['path'][0] == 'more/a.png'
    assert data[4]['patch']['path'][1] in ('more/e.webp', 'a.png')
    assert ROOT_DATASETS.get('cotap_mm.NeighborPairs') is NeighborPairs


def test_a_bad_neighbor_is_replaced_by_another_neighbor(pairs, log):
    data = pairs(bad=[1])
    assert numbers(data[0], 'cls')[1] in (2, 3)
    assert set(drawn_pairs(data, 0, 30)) == {(0, 2), (0, 3)}
    assert data.branches['patch'].bad_images == ['001.png']
    assert log.text.count('cannot decode 001.png: broken; using another image instead') == 1
    assert data.branches['patch'].source.reads.count(1) == 1  # once for both branches


def test_a_bad_image_is_replaced_by_another_image(pairs):
    data = pairs(bad=[5])
    firsts = {image for image, _ in drawn_pairs(data, 5, 60)}
    assert 5 not in firsts and len(firsts) > 5


def test_an_image_without_readable_neighbors_is_replaced(pairs):
    data = pairs(bad=[1, 2, 3], max_bad_fraction=0.3)
    for image, positive in drawn_pairs(data, 0, 50):
        assert image not in (0, 1, 2, 3) and (positive - image) % 10 in (1, 2, 3)


def test_too_many_bad_images_are_an_error_that_lists_them(pairs):
    data = pairs(bad=[0, 1, 2])
    with pytest.raises(
        RuntimeError,
        match=r'3 of 10 images cannot be decoded; '
        r'max_bad_fraction=0.01 allows 2(?s:.*)000.png\n  001.png\n  002.png',
    ):
        drawn_pairs(data, 0, 200)


def test_one_percent_of_many(pairs):
    data = pairs(count=400, bad=range(5))
    for i in range(4):
        drawn_pairs(data, i, 1)
    with pytest.raises(RuntimeError, match='5 of 400 images .* allows 4'):
        drawn_pairs(data, 4, 1)


def test_no_image_is_readable(pairs):
    data = pairs(count=4, bad=range(4), max_bad_fraction=1)
    with pytest.raises(RuntimeError, match='4 of 4 images cannot be decoded'):
        data[0]


@pytest.mark.slow  # torch waits 5 s for each worker that raised
def test_too_many_in_workers_reach_the_main_process(pairs):
    loader = DataLoader(pairs(bad=[0, 1, 2, 3]), batch_size=1, num_workers=1)
    with pytest.raises(RuntimeError, match='of 10 images cannot be decoded'):
        list(loader)


def test_workers_and_the_main_process_count_together(pairs):
    data = pairs(bad=[0, 5])
    list(DataLoader(data, batch_size=1, num_workers=2))
    assert data.branches['patch'].bad_images == ['000.png', '005.png']
    data.branches['patch'].source.bad.add(7)
    with pytest.raises(RuntimeError, match='3 of 10 images cannot be decoded'):
        data[7]


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(neighbors='auto'), "neighbors must be a neighbor file, got 'auto': cotap train"),
        (dict(neighbors=None), 'neighbors must be a neighbor file, got None'),
        (dict(cls=dict(type='ImageList', root='x')), 'cls_neighbors must be .* file, got None'),
        (
            dict(cls=dict(type='ImageList', root='x'), cls_neighbors='auto'),
            "neighbors .* got 'auto'",
        ),
        (dict(max_bad_fraction=1.5), r'max_bad_fraction must be a number in \[0, 1\], got 1.5'),
        (dict(max_bad_fraction=-1), r'max_bad_fraction must be a number in'),
        (dict(patience=-1), 'patience must be a number of seconds >= 0, or inf, got -1'),
        (dict(patience=float('nan')), 'patience must be a number of seconds >= 0, or inf, got nan'),
        (dict(crops=dict(global_size=0)), 'global_size must be an integer >= 1'),
        (dict(num_neighbors=0), 'num_neighbors must be an integer >= 1'),
    ],
)
def test_bad_options(arrays, ring, options, message):
    source = arrays(5)
    with pytest.raises(ValueError, match=message):
        NeighborPairs(
            **{**dict(patch=source, neighbors=ring(source.names), num_neighbors=3), **options}
        )


def test_one_image_is_not_enough(arrays, ring):
    with pytest.raises(ValueError, match='at least 2 images, got 1'):
        NeighborPairs(arrays(1), ring(['000.png', 'x']))


def test_changed_images_are_detected(arrays, ring):
    with pytest.raises(ValueError, match='built for 5 images, but the folder has 6; rebuild'):
        NeighborPairs(arrays(6), ring(arrays(5).names), num_neighbors=3)


def test_fewer_neighbors_than_asked_for_in_a_tiny_folder(arrays, ring):
    source = arrays(3)
    data = NeighborPairs(source, ring(source.names, k=7), num_neighbors=7, crops=CROPS)
    assert set(drawn_pairs(data, 0, 40)) == {(0, 1), (0, 2)}


def seed_as_mmengine(worker):
    """MMEngine gives each worker the same seed in every epoch."""
    np.random.seed(7 + worker)
    random.seed(7 + worker)
    torch.manual_seed(7 + worker)


def epochs(data, workers, persistent=False, seed=0, init=None, rounds=2):
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        data,
        batch_size=5,
        num_workers=workers,
        worker_init_fn=init,
        persistent_workers=persistent,
        generator=generator,
    )
    return [torch.cat([batch['patch']['boxes'] for batch in loader]) for _ in range(rounds)]


@pytest.mark.parametrize('persistent', [False, True])
@pytest.mark.parametrize('init', [None, seed_as_mmengine])
def test_each_epoch_and_worker_has_new_draws(pairs, persistent, init):
    first, second = epochs(pairs(), 2, persistent, init=init)
    assert not (first == second).flatten(1).all(dim=1).any()
    assert len({tuple(row) for row in first.flatten(1).tolist()}) == 10


@pytest.mark.parametrize('persistent', [False, True])
def test_the_same_seed_gives_the_same_draws(pairs, persistent):
    data = pairs()
    first, second, other = (epochs(data, 2, persistent, seed, rounds=1)[0] for seed in (3, 3, 4))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_without_workers(pairs):
    torch.manual_seed(3)
    first, second = epochs(pairs(), 0)
    torch.manual_seed(3)
    again, _ = epochs(pairs(), 0)
    assert not torch.equal(first, second) and torch.equal(first, again)


def visited(data, workers, seed=3, skip=0):
    sampler = DATA_SAMPLERS.build(dict(type='VisitSampler', dataset=data, seed=seed))
    loader = iter(DataLoader(data, batch_size=5, num_workers=workers, sampler=sampler))
    batches = [next(loader) for _ in range(4)][skip:]  # two passes
    return (
        torch.cat([batch['patch']['boxes'] for batch in batches]),
        [path for batch in batches for path in batch['patch']['path'][0]],
    )


def test_draws_of_visits_do_not_depend_on_workers(pairs):
    boxes, paths = visited(pairs(), 0)
    others, other_paths = visited(pairs(), 2)
    assert torch.equal(boxes, others) and paths == other_paths
    assert not torch.equal(boxes, visited(pairs(), 0, seed=4)[0])


def test_draws_of_visits_differ_between_passes(pairs):
    boxes, paths = visited(pairs(), 0)
    assert sorted(paths[:10]) == sorted(paths[10:]) and paths[:10] != paths[10:]
    rounds = [dict(zip(paths[a : a + 10], boxes[a : a + 10])) for a in (0, 10)]
    assert not any(torch.equal(rounds[0][path], rounds[1][path]) for path in rounds[0])


def test_a_batch_trains_the_model(pairs):
    data = pairs()
    batch = default_collate([data[i] for i in range(4)])
    assert batch['patch']['global_crops'].shape == (4, 2, 2, 32, 32, 3)
    torch.manual_seed(0)
    model = build_tiny()
    for _ in range(2):  # the queues are empty in the first step
        losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    total = sum(value for name, value in losses.items() if 'loss' in name)
    assert torch.isfinite(total) and total > 0
    total.backward()
    assert torch.isfinite(model.backbone.pos_embed.grad).all()


def test_street_scenes(shared_data, ring, tmp_path):
    """Photographs, from the files to the losses."""
    root = shared_data / 'data' / 'camvid' / 'images' / 'train'
    names = sorted(path.name for path in root.glob('*.jpg'))[:6]
    assert len(names) == 6
    listed = tmp_path / 'some.txt'
    listed.write_text('\n'.join(names))
    data = NeighborPairs(
        dict(type='ImageList', root=str(root), ann_file=str(listed)),
        ring(names),
        num_neighbors=3,
        crops=CROPS,
    )
    batch = default_collate([data[i] for i in range(4)])
    model = build_tiny()
    for _ in range(2):
        losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert batch['patch']['global_crops'].float().std() > 10


@pytest.mark.parametrize('reduce_jpeg, width', [(True, 100), (False, 800)])
def test_large_jpegs_are_decoded_small(tmp_path, ring, reduce_jpeg, width):
    for i in range(4):
        Image.new('RGB', (800, 600), (60 * i, 0, 0)).save(tmp_path / f'{i}.jpg')
    data = NeighborPairs(
        dict(type='ImageList', root=str(tmp_path)),
        ring([f'{i}.jpg' for i in range(4)]),
        num_neighbors=3,
        crops=CROPS,
        reduce_jpeg=reduce_jpeg,
    )
    boxes = torch.cat([data[i]['patch']['boxes'].flatten(0, 1) for i in range(4)])
    assert width / 2 < boxes[:, 2].max() <= width
    assert abs(int(data[2]['patch']['global_crops'][0].float().mean(dim=(0, 1, 2))[0]) - 120) < 3
