"""Several ranks share the work on one neighbour file, and hear of each other's failure."""
import pytest
import torch
from mmengine.config import Config
from neighbor_rank_work import OneBreaks, Together, build
from rank_work import on_two_ranks

from cotap_mm.datasets import ensure_neighbors, neighbor_search

BACKBONE = dict(
    type='DINOViT', img_size=16, patch_size=8,
    arch=dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8))


def make_config(num_images):
    return Config(dict(
        model=dict(backbone=BACKBONE, init_cfg=None),
        train_dataloader=dict(num_workers=0, dataset=dict(
            type='NeighborPairs', num_neighbors=2, neighbors='auto',
            patch=dict(type='ToyScenes', num_images=num_images, image_size=32)))))


def prepared(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir()
    return [tmp_path / name for name in names]


@pytest.mark.dist
def test_two_ranks_find_what_one_does_and_share_the_work(tmp_path):
    shared, alone, results = prepared(tmp_path, 'shared', 'alone', 'results')
    first, second = on_two_ranks(Together(shared), results)
    expected = build(alone)
    for found in (first, second):
        assert torch.equal(found['indices'], expected['indices'])
    assert (first['seen'], second['seen']) == (12, 11) and expected['seen'] == 23
    assert [path.name for path in shared.iterdir()] == ['n.npz']


@pytest.mark.dist
def test_the_others_hear_of_a_failure_and_one_process_goes_on(tmp_path):
    shared, results = prepared(tmp_path, 'shared', 'results')
    first, second = on_two_ranks(OneBreaks(shared), results)
    assert second == 'ValueError: the network broke'
    assert first == ('OtherRankFailed: another rank could not build the neighbours: '
                     'ValueError: the network broke')
    found = build(shared)
    assert found['seen'] == 7  # 12 of rank 0 and the first 4 of rank 1 are kept
    assert [path.name for path in shared.iterdir()] == ['n.npz']


def test_a_file_that_is_there_is_not_built_again(tmp_path, monkeypatch):
    first, second = make_config(4), make_config(4)
    ensure_neighbors(first, tmp_path)
    monkeypatch.setattr(neighbor_search, 'build_neighbors', lambda *_, **__: pytest.fail('built'))
    ensure_neighbors(second, tmp_path)
    assert second.train_dataloader.dataset == first.train_dataloader.dataset


def test_too_few_images(tmp_path):
    with pytest.raises(ValueError, match='at least 2 images'):
        ensure_neighbors(make_config(1), tmp_path)
    assert not list(tmp_path.iterdir())
