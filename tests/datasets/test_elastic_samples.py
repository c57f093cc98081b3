"""A step sees the same samples, crops and colors on any number of ranks and workers."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from cotap_mm.datasets import NeighborPairs, ToyScenes, VisitSampler, save_neighbors
from cotap_mm.models import CoTAPDataPreprocessor

IMAGES, BATCH, STEPS = 11, 8, 3  # an epoch ends in the middle of a step


@pytest.fixture
def pairs(tmp_path):
    scenes = ToyScenes(num_images=IMAGES, image_size=32)
    names = [scenes.name(i) for i in range(IMAGES)]
    near = torch.tensor([[(i + k) % IMAGES for k in (1, 2, 3)] for i in range(IMAGES)]).numpy()
    save_neighbors(tmp_path / 'neighbors.npz', names, near)
    return NeighborPairs(
        dict(type='ToyScenes', num_images=IMAGES, image_size=32),
        tmp_path / 'neighbors.npz',
        num_neighbors=3,
        crops=dict(global_size=16, local_size=8, num_local=1),
    )


def steps_of(pairs, world, workers):
    """Views of each step over all ranks, sorted by image name."""
    preprocess, loaders = CoTAPDataPreprocessor(), []
    for rank in range(world):
        sampler = VisitSampler(pairs, seed=5)
        sampler.rank, sampler.world_size = rank, world
        loaders.append(
            iter(DataLoader(pairs, BATCH // world, sampler=sampler, num_workers=workers))
        )
    steps = []
    for _ in range(STEPS):
        seen = []
        for loader in loaders:
            batch = next(loader)
            views = preprocess(batch, training=True)['inputs']['cls']
            paths = [*batch['cls']['path'][0], *batch['cls']['path'][1]]
            seen += [
                (path, views['student_global'][i], views['student_local'][i])
                for i, path in enumerate(paths)
            ]
        steps.append(sorted(seen, key=lambda view: (view[0], view[1].sum().item())))
    return steps


@pytest.mark.slow
@pytest.mark.parametrize('world, workers', [(1, 2), (2, 0), (4, 1)])
def test_steps_do_not_depend_on_ranks_and_workers(pairs, world, workers):
    for one, other in zip(steps_of(pairs, 1, 0), steps_of(pairs, world, workers)):
        assert len(one) == len(other) == 2 * BATCH
        for (name, *views), (other_name, *others) in zip(one, other):
            assert name == other_name
            for view, same in zip(views, others):
                assert torch.allclose(view, same, atol=1e-5)


def test_another_seed_gives_other_colors(pairs):
    sampler = VisitSampler(pairs, seed=5)
    first = next(iter(sampler))
    draws = [
        pairs[visit]['patch']['color_draws']
        for visit in (first, first, first._replace(seed=6), first._replace(count=1))
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[3])
    sample = pairs[first]
    assert not torch.equal(sample['patch']['color_draws'], sample['cls']['color_draws'])
