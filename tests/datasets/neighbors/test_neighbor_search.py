"""Neighbors are exact, interrupted runs resume, and a config's 'auto' is resolved."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from cotap_mm.datasets import (
    ImageList,
    build_neighbors,
    load_neighbors,
    save_neighbors,
    search_neighbors,
)
from cotap_mm.datasets.neighbors import search as module
from cotap_mm.datasets.neighbors.feature_file import FeatureFile
from cotap_mm.datasets.neighbors.file import neighbor_meta
from cotap_mm.encoders.global_encoder import GlobalEncoder, identity_of
from cotap_mm.engine import auto_neighbors
from cotap_mm.engine.auto_neighbors import ensure_neighbors
from cotap_mm.errors import UserError
from tests.helpers.tiny import build_tiny

BACKBONE = dict(
    type='DINOViT',
    img_size=32,
    patch_size=8,
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
)


class Encoder:
    """Map color to a direction in the plane; raise after ``stop_after`` images."""

    image_size = 8
    device = 'cpu'

    def __init__(self, identity='color', stop_after=10**9):
        self.identity, self.stop_after, self.seen = identity, stop_after, 0

    def __call__(self, images):
        if self.seen + len(images) > self.stop_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        angle = images.mean(dim=(1, 2, 3)) * 0.1
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def unit(count, width, seed=0):
    features = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(features, dim=1)


def by_hand(features, k, candidates):
    """Reference that computes the full similarity matrix."""
    cosine = features @ features.T
    cosine.fill_diagonal_(-2)
    cosine[:, ~candidates] = -2
    return cosine.argsort(dim=1, descending=True, stable=True)[:, :k]


@pytest.mark.parametrize('count, block', [(23, 5), (23, 23), (23, 100), (2, 1), (20, 4)])
@pytest.mark.parametrize('excluded', [False, True])
def test_blocks_equal_the_full_matrix(count, block, excluded):
    features = unit(count, 7)
    candidates = torch.ones(count, dtype=torch.bool)
    if excluded and count > 2:
        candidates[torch.tensor([0, 4, 5, 6, 7, 8, count - 1])] = False
    k = min(6, int(candidates.sum()) - 1)
    found = search_neighbors(features, k, is_candidate=candidates, block=block)
    assert found.dtype == torch.int64
    assert torch.equal(found, by_hand(features, k, candidates))
    if not excluded:
        assert torch.equal(found, search_neighbors(features, k, block=block))


def test_an_image_is_never_its_own_neighbor_among_copies():
    features = unit(1, 5).expand(9, -1)
    found = search_neighbors(features, 8, block=4)
    for i, row in enumerate(found.tolist()):
        assert sorted(row) == [j for j in range(9) if j != i]


def test_the_nearest_in_color(arrays, tmp_path):
    source = arrays(10)
    out = build_neighbors(source, Encoder(), tmp_path / 'deep' / 'nn.npy', 2, 3, num_workers=0)
    found = load_neighbors(out, source.names, 2)
    assert set(found[0]) == {1, 2} and set(found[5]) == {4, 6} and set(found[9]) == {8, 7}
    meta = neighbor_meta(out)
    assert (meta['encoder'], meta['image_size'], meta['num_images']) == ('color', 8, 10)
    assert [path.name for path in out.parent.iterdir()] == ['nn.npy']


@pytest.fixture
def often(monkeypatch):
    """Save progress after every 4 images."""
    from cotap_mm.datasets.neighbors import features as global_features

    monkeypatch.setattr(global_features, '_SAVE_EVERY', 4)


def test_an_interrupted_run_resumes(arrays, tmp_path, often):
    source, expected = arrays(11), tmp_path / 'expected.npy'
    build_neighbors(source, Encoder(), expected, 3, 4, num_workers=0)
    out = tmp_path / 'nn.npy'
    with pytest.raises(KeyboardInterrupt):
        build_neighbors(source, Encoder(stop_after=9), out, 3, 4, num_workers=0)
    assert not out.exists()
    source.reads.clear()
    second = Encoder()
    build_neighbors(source, second, out, 3, 4, num_workers=0)
    assert second.seen == 3 and source.reads == [8, 9, 10]
    assert np.array_equal(np.load(out), np.load(expected))


RECORDS = {
    'done as text': dict(done='8'),
    'done beyond the file': dict(done=10**9),
    'done too large': dict(done=11),
    'done negative': dict(done=-1),
    'done as bool': dict(done=True),
    'done not finite': dict(done=float('nan')),
    'width beyond the file': dict(width=10**9),
    'other width': dict(width=1),
    'no checksum': dict(crc32=None),
    'other number': dict(images=8),
}


@pytest.mark.parametrize(
    'change',
    [
        'encoder',
        'images',
        'names',
        'damaged record',
        'deep record',
        'list',
        'truncated file',
        'changed file',
        *RECORDS,
    ],
)
def test_a_changed_task_starts_over(arrays, tmp_path, often, log, change):
    out = tmp_path / 'nn.npy'
    with pytest.raises(KeyboardInterrupt):
        build_neighbors(arrays(11), Encoder(stop_after=9), out, 3, 4, num_workers=0)
    source, encoder = arrays(12 if change == 'images' else 11), Encoder()
    (part,) = tmp_path.glob('nn.npy.features.*.00000')
    (record,) = tmp_path.glob('nn.npy.features.*.00000.json')
    if change == 'encoder':
        encoder.identity = 'other'
    elif change == 'names':
        source.names[3] = 'other.png'
    elif change == 'damaged record':
        record.write_text(record.read_text()[:20])
    elif change == 'truncated file':
        part.write_bytes(part.read_bytes()[:-4])
    elif change == 'changed file':
        part.write_bytes(bytes([part.read_bytes()[0] ^ 1]) + part.read_bytes()[1:])
    elif change == 'deep record':
        record.write_text('[' * 100_000)
    elif change == 'list':
        record.write_text('[1, 2]')
    elif change in RECORDS:
        record.write_text(json.dumps(dict(json.loads(record.read_text()), **RECORDS[change])))
    build_neighbors(source, encoder, out, 3, 4, num_workers=0)
    assert encoder.seen == len(source)
    assert ('does not match its record' in log.text) == (
        change not in ('encoder', 'images', 'names')
    )
    build_neighbors(source, Encoder(), tmp_path / 'expected.npy', 3, 4, num_workers=0)
    assert np.array_equal(np.load(out), np.load(tmp_path / 'expected.npy'))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['expected.npy', 'nn.npy']


def test_a_feature_file_that_is_truncated_while_open(tmp_path):
    file = FeatureFile(tmp_path / 'f', dict(identity='x'), 5)
    file.append(np.ones((5, 3), np.float32))
    file.save()
    assert file[1:3].shape == (2, 3) and [len(rows) for rows in file.split(2)] == [2, 2, 1]
    for damage in (lambda: (tmp_path / 'f').write_bytes(bytes(30)), (tmp_path / 'f').unlink):
        damage()  # a memory-mapped file would kill the process (SIGBUS)
        with pytest.raises(UserError, match='f was truncated or deleted while it was being read'):
            file[1:3]


def test_a_full_disk_is_a_user_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('cotap_mm.datasets.neighbors.feature_file.os.ftruncate', full)
    with pytest.raises(
        UserError, match='cannot write .*f: No space left on device. Free disk space'
    ):
        FeatureFile(tmp_path / 'f', {}, 5).append(np.ones((5, 3), np.float32))


def test_interrupted_during_the_search(arrays, tmp_path, monkeypatch):
    """The features are complete and are not computed again."""
    source, out = arrays(6), tmp_path / 'nn.npy'

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module.FoundParts, 'compute', interrupt)
        build_neighbors(source, Encoder(), out, 2, 4, num_workers=0)
    second = Encoder()
    build_neighbors(source, second, out, 2, 4, num_workers=0)
    assert second.seen == 0 and load_neighbors(out, source.names, 2).shape == (6, 2)


@pytest.mark.parametrize('workers', [0, 2])
def test_undecodable_images_are_not_neighbors(arrays, tmp_path, workers, log):
    source, out = arrays(9, bad=[0, 4]), tmp_path / 'nn.npy'
    build_neighbors(source, Encoder(), out, 7, 4, num_workers=workers)
    assert (
        '2 of 9 images cannot be decoded and are not used as neighbors, e.g. 000.png, 004'
        in log.text
    )
    found = load_neighbors(out, source.names, 7)
    assert found.shape == (9, 6)  # 7 can be read, so each has 6 others
    assert not np.isin(found, [0, 4]).any()
    assert not (found == np.arange(9)[:, None]).any()
    assert set(found[5]) == {1, 2, 3, 6, 7, 8}


def test_too_few_images_and_bad_numbers(arrays, tmp_path):
    source, out = arrays(3, bad=[0, 1]), tmp_path / 'nn.npy'
    with pytest.raises(ValueError, match='at least 2 images, 1 of 3 can be decoded'):
        build_neighbors(source, Encoder(), out, num_workers=0)
    source.bad.clear()  # repaired: read again, not cached
    assert load_neighbors(
        build_neighbors(source, Encoder(), out, num_workers=0), source.names, 2
    ).shape == (3, 2)
    out.unlink()
    with pytest.raises(ValueError, match='num_neighbors must be at least 1, got 0'):
        build_neighbors(arrays(3), Encoder(), tmp_path / 'nn.npy', 0)
    broken = Encoder()
    broken.__class__ = type(
        'Broken',
        (Encoder,),
        dict(__call__=lambda self, images: torch.full((len(images), 2), float('nan'))),
    )
    with pytest.raises(ValueError, match='not finite; check its checkpoint'):
        build_neighbors(arrays(3), broken, tmp_path / 'nn.npy', num_workers=0)
    assert not (tmp_path / 'nn.npy').exists()


def test_faiss_must_be_installed_before_anything_is_computed(arrays, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'faiss', None)
    encoder = Encoder()
    with pytest.raises(ImportError, match='faiss is not installed: pip install faiss-cpu'):
        build_neighbors(arrays(4), encoder, tmp_path / 'nn.npy', use_faiss=True)
    assert encoder.seen == 0


def test_faiss_equals_our_search():
    pytest.importorskip('faiss')
    features, candidates = unit(40, 8), torch.arange(40) % 5 > 0
    found = search_neighbors(features, 6, is_candidate=candidates, use_faiss=True, block=7)
    assert torch.equal(found, search_neighbors(features, 6, is_candidate=candidates))


def test_global_features_are_the_cls_token(photos):
    encoder = GlobalEncoder(BACKBONE, image_size=32)
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(encoder(image), encoder.model.forward_tokens(image)[1][:, 0])
    assert torch.equal(encoder(image), GlobalEncoder(BACKBONE, image_size=32)(image))
    assert not encoder(image).requires_grad


def test_identity_follows_what_features_depend_on(tmp_path):
    first = tmp_path / 'a.pth'
    first.write_bytes(b'weights')
    identity = identity_of(BACKBONE, str(first), 224)
    assert identity == identity_of(dict(BACKBONE, with_cp=True), str(first), 224)
    assert identity != identity_of(dict(BACKBONE, patch_size=16), str(first), 224)
    assert identity != identity_of(BACKBONE, str(first), 112)
    assert identity != identity_of(BACKBONE, None, 224)
    first.write_bytes(b'changed')
    assert identity != identity_of(BACKBONE, str(first), 224)


@pytest.fixture
def config(photos):
    def make(**dataset):
        return Config(
            dict(
                model=dict(backbone=BACKBONE),
                train_dataloader=dict(
                    num_workers=0,
                    dataset=dict(
                        type='NeighborPairs',
                        num_neighbors=3,
                        neighbors='auto',
                        patch=dict(type='ImageList', root=str(photos)),
                        **dataset,
                    ),
                ),
            )
        )

    return make


def test_auto_is_built_once_and_stored_in_the_config(config, tmp_path, log, monkeypatch):
    first = config()
    ensure_neighbors(first, tmp_path / 'work', 'cpu')
    assert "neighbors='auto': computing neighbors of the 6 images of the patch branch" in log.text
    path = first.train_dataloader.dataset.neighbors
    source = ImageList(first.train_dataloader.dataset.patch.root)
    assert load_neighbors(path, source.names, 3).shape == (6, 3)
    assert first.train_dataloader.dataset.get('cls_neighbors') is None

    def fail(*args, **kwargs):
        raise AssertionError('built again')

    with monkeypatch.context() as patch:
        patch.setattr(auto_neighbors, 'build_neighbors', fail)
        again = config()
        ensure_neighbors(again, tmp_path / 'work', 'cpu')
        ensure_neighbors(again, tmp_path / 'work', 'cpu')  # nothing is 'auto' any more
    assert again.train_dataloader.dataset.neighbors == path
    other = config()
    other.train_dataloader.dataset.num_neighbors = 2
    ensure_neighbors(other, tmp_path / 'work', 'cpu')
    assert other.train_dataloader.dataset.neighbors != path


def test_auto_uses_a_file_of_an_earlier_version(config, tmp_path, monkeypatch):
    first = config()
    ensure_neighbors(first, tmp_path, 'cpu')
    new = Path(first.train_dataloader.dataset.neighbors)
    names = ImageList(first.train_dataloader.dataset.patch.root).names
    nearest = load_neighbors(new, names, 3)
    save_neighbors(new.with_suffix('.npz'), names, nearest, neighbor_meta(new))
    new.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(auto_neighbors, 'build_neighbors', lambda *_, **__: pytest.fail('built'))
        again = config()
        ensure_neighbors(again, tmp_path, 'cpu')
        approximate = config()
        approximate.neighbor_search = dict(search='ivf')
        ensure_neighbors(approximate, tmp_path, 'cpu')  # exact ones are even better
    assert new.suffix == '.npy'
    for cfg in (again, approximate):
        assert cfg.train_dataloader.dataset.neighbors == str(new.with_suffix('.npz'))


def test_auto_searches_as_the_config_says(config, tmp_path):
    pytest.importorskip('faiss')
    paths = {}
    for number, options in enumerate([None, dict(search='ivf'), dict(search='ivf', nprobe=8)]):
        cfg = config()
        cfg.neighbor_search = options
        ensure_neighbors(cfg, tmp_path / str(number), 'cpu')
        path = Path(cfg.train_dataloader.dataset.neighbors)
        meta = neighbor_meta(path)
        paths[path.name] = meta['search'], meta.get('nprobe')
    assert list(paths.values()) == [('exact', None), ('ivf', 32), ('ivf', 8)]
    wrong = config()
    wrong.neighbor_search = dict(search='flat')
    with pytest.raises(ValueError, match="search must be one of exact, ivf, got 'flat'"):
        ensure_neighbors(wrong, tmp_path, 'cpu')


@pytest.mark.parametrize('suffix', ['.npy', '.npz'])
def test_a_lost_file_is_rebuilt_as_it_was(config, tmp_path, suffix):
    first = config()
    ensure_neighbors(first, tmp_path, 'cpu')
    new = Path(first.train_dataloader.dataset.neighbors)
    nearest = np.load(new)
    new.unlink()
    lost = new.with_suffix(suffix)
    again = config()
    again.neighbor_search = dict(search='ivf')  # the lost one was searched exactly
    ensure_neighbors(again, tmp_path, 'cpu', used_before=dict(neighbors=str(lost)))
    assert again.train_dataloader.dataset.neighbors == str(lost)
    assert neighbor_meta(lost)['search'] == 'exact'
    names = ImageList(first.train_dataloader.dataset.patch.root).names
    assert np.array_equal(load_neighbors(lost, names, 3), nearest)
    with pytest.raises(ValueError, match='other.npy of this run does not exist any more'):
        ensure_neighbors(config(), tmp_path, 'cpu', used_before=dict(neighbors='other.npy'))


def test_both_branches_and_a_changed_folder(config, photos, tmp_path):
    def ensured():
        cfg = config(cls=dict(type='ImageList', root=str(photos / 'more')), cls_neighbors='auto')
        ensure_neighbors(cfg, tmp_path / 'work', 'cpu')
        dataset = cfg.train_dataloader.dataset
        return dataset.neighbors, dataset.cls_neighbors

    first = ensured()
    assert first[0] != first[1] and all('neighbors_' in path for path in first)
    (photos / 'b.jpg').rename(photos / 'z.jpg')
    second = ensured()
    assert second[0] != first[0] and second[1] == first[1]


def test_a_given_file_is_kept(config, tmp_path):
    cfg = config()
    cfg.train_dataloader.dataset.neighbors = 'given.npy'
    ensure_neighbors(cfg, tmp_path / 'work', 'cpu')
    assert cfg.train_dataloader.dataset.neighbors == 'given.npy'
    assert not (tmp_path / 'work').exists()


def test_weights_that_do_not_exist(config, tmp_path):
    cfg = config()
    cfg.model.init_cfg = dict(type='PretrainedViT', checkpoint=str(tmp_path / 'none.pth'))
    with pytest.raises(FileNotFoundError, match='none.pth'):
        ensure_neighbors(cfg, tmp_path / 'work', 'cpu')
    assert not (tmp_path / 'work').exists()


def test_auto_uses_the_backbone_of_the_config_at_its_image_size(config, tmp_path, monkeypatch):
    seen = []

    class Recording(GlobalEncoder):
        def __init__(self, backbone, checkpoint, image_size, *args):
            seen.append((dict(backbone), image_size))
            super().__init__(backbone, checkpoint, image_size, *args)

        def __call__(self, images):
            assert images.shape[1:] == (3, self.image_size, self.image_size)
            return super().__call__(images)

    monkeypatch.setattr(auto_neighbors, 'GlobalEncoder', Recording)
    cfg = config()
    cfg.model.backbone.img_size = 48
    ensure_neighbors(cfg, tmp_path / 'work', 'cpu')
    assert seen == [({**BACKBONE, 'img_size': 48}, 48)]


def test_initial_weights_are_used(config, tmp_path):
    torch.manual_seed(3)
    torch.save(build_tiny().state_dict(), tmp_path / 'init.pth')
    cfg = config()
    cfg.model.init_cfg = dict(type='PretrainedViT', checkpoint=str(tmp_path / 'init.pth'))
    ensure_neighbors(cfg, tmp_path / 'work', 'cpu')
    path = cfg.train_dataloader.dataset.neighbors
    assert str(tmp_path / 'init.pth') in neighbor_meta(path)['encoder']


def test_street_scenes(shared_data, tmp_path):
    """Photographs, one of them twice: its copy is its nearest neighbor."""
    root = shared_data / 'data' / 'camvid' / 'images' / 'train'
    for i, path in enumerate(sorted(root.glob('*.jpg'))[::60][:5]):
        (tmp_path / f'{i}.jpg').write_bytes(path.read_bytes())
    (tmp_path / 'copy.jpg').write_bytes((tmp_path / '2.jpg').read_bytes())
    source = ImageList(tmp_path)
    assert len(source) == 6
    out = build_neighbors(
        source, GlobalEncoder(BACKBONE, image_size=32), tmp_path / 'nn.npy', 3, 4, num_workers=0
    )
    found = load_neighbors(out, source.names, 3)
    assert found.shape == (6, 3) and found[2, 0] == 5 and found[5, 0] == 2
