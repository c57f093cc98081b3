"""Names that are not UTF-8, have line breaks, spaces or quotes, or are very long."""

from __future__ import annotations

import io
import json
import logging
import os
import unicodedata

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from PIL import Image

from cotap_mm.command_line.checkpoint_names import named_checkpoints
from cotap_mm.datasets import (
    BadImage,
    ImageList,
    NeighborPairs,
    PackedImages,
    build_neighbors,
    load_neighbors,
    pack_images,
)
from cotap_mm.datasets.sources.fingerprints import fingerprint_of
from cotap_mm.engine.auto_neighbors import ensure_neighbors
from cotap_mm.visualization import Report
from cotap_mm.visualization.errors import NotAvailable
from cotap_mm.visualization.report.image_set import read_images
from cotap_mm.visualization.viewer.confined_images import ConfinedImages
from cotap_mm.visualization.viewer.render import FeatureBrowser

NAMES = [
    b'clich\xe9.jpg',
    b'\xff\xfe.jpg',
    'cliché.jpg'.encode(),
    unicodedata.normalize('NFD', 'résumé.jpg').encode(),
    b'two\nlines.jpg',
    b' leading.jpg',
    b' both .jpg',
    b'"a" \'b\'.jpg',
    '😀🎉.jpg'.encode(),
    b'$(x) `y`; %s {z}.jpg',
    b'tab\tcr\r.jpg',
    b'\x1b[31m.jpg',
    'a\u2028b\u202e.jpg'.encode(),
    b'x' * 250 + b'.jpg',
    b'back\\slash.jpg',
    b'bell\x07.jpg',
]


@pytest.fixture
def folder(tmp_path):
    """One image for each name, half of them in a folder with an odd name."""
    root = os.fsencode(tmp_path / 'images')
    for index, name in enumerate(NAMES):
        parent = os.path.join(root, b'ordner\xfc\n') if index % 2 else root
        os.makedirs(parent, exist_ok=True)
        Image.new('RGB', (40, 30), (index * 9, 90, 90)).save(
            os.fsdecode(os.path.join(parent, name)), 'PNG'
        )
    return tmp_path / 'images'


class Means:
    """Replacement for a network."""

    identity, image_size, device = 'means', 32, 'cpu'

    def __call__(self, images):
        return images.mean(dim=(2, 3)) + torch.arange(3)


@pytest.mark.slow
def test_all_images_are_listed_packed_and_used(folder, tmp_path):
    pytest.importorskip('lmdb', reason='lmdb is not installed')
    source = ImageList(folder)
    assert len(source) == len(NAMES)
    out = build_neighbors(source, Means(), tmp_path / 'nn.npz', 3, num_workers=0)
    assert load_neighbors(out, source.names[::-1], 3).shape == (len(NAMES), 3)
    assert pack_images(source, tmp_path / 'a.lmdb') == []
    packed = PackedImages(tmp_path / 'a.lmdb')
    assert packed.names == source.names
    assert fingerprint_of(source) and fingerprint_of(packed)
    for config in (
        dict(type='ImageList', root=str(folder)),
        dict(type='PackedImages', root=str(tmp_path / 'a.lmdb')),
    ):
        data = NeighborPairs(
            config,
            str(out),
            num_neighbors=3,
            max_bad_fraction=0,
            crops=dict(global_size=32, local_size=16),
        )
        loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=1)
        seen = {name for batch in loader for pair in batch['patch']['path'] for name in pair}
        assert seen == set(source.names)
        assert not data.branches['patch'].bad_images


def test_packed_files_of_version_1(folder, tmp_path):
    lmdb = pytest.importorskip('lmdb', reason='lmdb is not installed')
    names = ['a.png', 'größe/b.png']
    with lmdb.open(str(tmp_path / 'old.lmdb'), subdir=False, lock=False) as environment:
        with environment.begin(write=True) as change:
            for index in range(2):
                buffer = io.BytesIO()
                Image.new('L', (5, 4), 100 * index).save(buffer, 'PNG')
                change.put(index.to_bytes(8, 'big'), buffer.getvalue())
            change.put(b'names', '\n'.join(names).encode())
            change.put(b'format', b'cotap_mm packed images 1')
    old = PackedImages(tmp_path / 'old.lmdb')
    assert old.names == names and (old.read(1) == 100).all()


def test_neighbors_of_a_training(folder, tmp_path):
    """The digest of ``neighbors='auto'`` and the stored config."""
    from mmengine.config import Config

    backbone = dict(
        type='DINOViT',
        arch=dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=32),
        img_size=32,
        patch_size=16,
    )
    config = Config(
        dict(
            model=dict(backbone=backbone),
            train_dataloader=dict(
                dataset=dict(
                    type='NeighborPairs',
                    patch=dict(type='ImageList', root=str(folder)),
                    neighbors='auto',
                    num_neighbors=3,
                ),
                num_workers=0,
            ),
        )
    )
    ensure_neighbors(config, tmp_path / os.fsdecode(b'work\xe9'), 'cpu')
    assert os.path.isfile(config.train_dataloader.dataset.neighbors)
    json.dumps(config.to_dict()).encode('ascii')
    config.dump(tmp_path / 'config.py')
    again = Config.fromfile(tmp_path / 'config.py')
    assert again.train_dataloader.dataset.neighbors == config.train_dataloader.dataset.neighbors


@pytest.mark.parametrize('kind', ['text', 'json', 'json in bytes'])
def test_lists_of_odd_names(folder, tmp_path, kind):
    names = [name for name in ImageList(folder).names if '\n' not in name and '\r' not in name]
    path = tmp_path / ('list.txt' if kind == 'text' else 'list.json')
    if kind == 'text':
        path.write_bytes(b'\n'.join(map(os.fsencode, names)))
    elif kind == 'json':
        names = ImageList(folder).names
        path.write_text(json.dumps(dict(images=[dict(file_name=name) for name in names])))
    else:
        names = [name for name in names if name.isprintable() or '\udc00' <= max(name) <= '\udfff']
        path.write_bytes(
            os.fsencode(
                json.dumps(
                    dict(images=[dict(file_name=name) for name in names]), ensure_ascii=False
                )
            )
        )
    assert ImageList(folder, path).names == names


def test_messages_and_logs(folder, tmp_path, ring, capsys):
    """Messages are one line each, and can be logged in any encoding."""
    for path in folder.rglob('*'):
        if path.is_file():
            path.write_bytes(b'no image')
    source = ImageList(folder)
    for index in range(len(source)):
        with pytest.raises(BadImage) as failed:
            source.read(index)
        str(failed.value).encode('utf-8')
        assert '\n' not in str(failed.value) and '\x1b' not in str(failed.value)
    logger = MMLogger('odd', logger_name='odd', log_file=str(tmp_path / 'log.txt'))
    logger.warning(f'image {source.names[0]}\nand clich\udce9.jpg')
    logger.handlers[-1].flush()
    assert 'and clich\\udce9.jpg' in (tmp_path / 'log.txt').read_text(encoding='utf-8')
    assert 'Logging error' not in capsys.readouterr().err
    data = NeighborPairs(
        dict(type='ImageList', root=str(folder)),
        ring(source.names),
        num_neighbors=2,
        crops=dict(global_size=32, local_size=16),
    )
    with pytest.raises(RuntimeError, match='cannot be decoded') as failed:
        data[0]
    str(failed.value).encode('utf-8')
    logging.getLogger('odd').handlers.clear()


def test_viewer_and_reports(folder):
    source = ConfinedImages(ImageList(folder))
    browser = FeatureBrowser({}, source, (32, 32))
    assert len(set(browser.names)) == len(NAMES)
    json.dumps(browser.names, ensure_ascii=False).encode('utf-8')
    images = read_images(source, range(len(source)), (16, 16))
    assert len(images.pixels) == len(NAMES)
    '\n'.join(images.names).encode('utf-8')
    first = folder / source.name(0)
    first.write_bytes(b'no image')
    with pytest.raises(NotAvailable, match='cannot be read') as failed:
        browser._features.photo(0)
    str(failed.value).encode('utf-8')


def test_reports_of_checkpoints_with_odd_names(tmp_path):
    checkpoints = named_checkpoints([os.fsdecode(b'work\xe9/clich\xe9.pth'), 'a=b.pth'])
    assert list(checkpoints) == ['clich\\xe9', 'a']
    report = Report('title', f'of {list(checkpoints.values())[0]}')
    report.add_table('table', 'sentence', ['name', 'path'], list(checkpoints.items()))
    page = report.save(tmp_path / os.fsdecode(b'out\xe9'))
    assert 'clich\\udce9.pth' in page.read_text(encoding='utf-8')


def test_names_in_the_neighbor_file_are_unchanged(folder, tmp_path):
    names = ImageList(folder).names
    out = build_neighbors(ImageList(folder), Means(), tmp_path / 'nn.npz', 2, num_workers=0)
    with np.load(out, allow_pickle=False) as archive:
        assert archive['names'].tolist() == names
    with pytest.raises(ValueError, match='was built for other images') as failed:
        load_neighbors(out, [*names[:-1], 'x'], 2)
    str(failed.value).encode('utf-8')
