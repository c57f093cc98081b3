"""Placeholders for the neighbors of a dry run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mmengine.config import Config

from cotap_mm.datasets import NeighborPairs, ToyScenes
from cotap_mm.datasets.opened import forget_sources, hand_on
from cotap_mm.engine.launch.dry_run import PlaceholderNeighbors, placeholder_neighbors


def test_the_images_that_follow():
    rows = PlaceholderNeighbors(5, 7)
    assert [rows[index].tolist() for index in (0, 3)] == [[1, 2, 3, 4], [4, 0, 1, 2]]
    many = PlaceholderNeighbors(10**9, 7)  # no memory per image
    assert many[10**9 - 2].tolist() == [10**9 - 1, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize('count', [2, 6])
def test_branches_with_automatic_neighbors_draw_from_placeholders(count):
    patch, cls = (dict(type='ToyScenes', num_images=count, seed=seed) for seed in (1, 2))
    dataset = dict(type='NeighborPairs', patch=patch, cls=cls, neighbors='auto')
    config = Config(dict(train_dataloader=dict(dataset=dict(dataset, cls_neighbors='auto'))))
    sources = {
        branch: ToyScenes(num_images=count, seed=seed)
        for branch, seed in (('patch', 1), ('cls', 2))
    }
    missing = placeholder_neighbors(config, sources)
    assert missing == [f'patch ({count} images)', f'cls ({count} images)']
    dataset = config.train_dataloader.dataset
    for name, source in sources.items():
        hand_on(dataset[name], source)
    dataset.pop('type')
    sample = NeighborPairs(**dataset)[0]
    assert len({*sample['patch']['path']}) == len({*sample['cls']['path']}) == 2
    forget_sources()


def test_a_neighbor_file_stays():
    config = Config(
        dict(train_dataloader=dict(dataset=dict(type='NeighborPairs', neighbors='n.npy')))
    )
    assert placeholder_neighbors(config, dict(patch=SimpleNamespace())) == []
    assert config.train_dataloader.dataset.neighbors == 'n.npy'
