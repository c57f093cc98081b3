"""While rank 0 builds neighbours the others wait, and hear of it if it fails."""
import threading

import pytest
from mmengine.config import Config

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


def test_they_wait_for_the_file_or_the_failure(tmp_path):
    out, failure = tmp_path / 'n.npz', tmp_path / 'n.npz.failed'
    timer = threading.Timer(0.05, out.touch)
    timer.start()
    neighbor_search._wait_for(out, failure, 0.01)
    assert out.is_file()
    out.unlink()
    failure.write_text('ValueError: no images')
    with pytest.raises(RuntimeError, match='rank 0 could not build .*ValueError: no images'):
        neighbor_search._wait_for(out, failure, 0.01)


def test_rank_0_says_why_it_failed(tmp_path):
    with pytest.raises(ValueError, match='at least 2 images'):
        ensure_neighbors(make_config(1), tmp_path)
    note, = tmp_path.glob('*.failed')
    assert 'at least 2 images' in note.read_text()


def test_a_new_attempt_forgets_the_old_failure(tmp_path):
    config = make_config(4)
    ensure_neighbors(config, tmp_path)
    out = config.train_dataloader.dataset.neighbors
    note = tmp_path / f'{out}.failed'
    note.write_text('RuntimeError: out of memory')
    ensure_neighbors(make_config(4), tmp_path)
    assert not note.exists()


def test_other_ranks_build_nothing(tmp_path, monkeypatch):
    first, second = make_config(4), make_config(4)
    ensure_neighbors(first, tmp_path)
    monkeypatch.setattr(neighbor_search, 'is_main_process', lambda: False)
    monkeypatch.setattr(neighbor_search, 'build_neighbors', lambda *_, **__: pytest.fail('built'))
    ensure_neighbors(second, tmp_path)
    assert second.train_dataloader.dataset == first.train_dataloader.dataset
