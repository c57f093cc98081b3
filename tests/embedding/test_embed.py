"""Features of a folder in one file: content, resuming, skipped images and refusals."""

from __future__ import annotations

import json
import multiprocessing
import zipfile

import numpy as np
import pytest
from PIL import Image

import cotap_mm
from cotap_mm.datasets import open_images
from cotap_mm.embedding import embed as module
from cotap_mm.embedding.embed import embed
from cotap_mm.embedding.file import read_features
from cotap_mm.errors import UserError
from cotap_mm.files.locks import Locked
from tests.embedding.conftest import Colors

NAMES = ['a/0.png', 'a/2.png', 'a/4.png', 'a/6.png', 'b/1.png', 'b/3.png', 'b/5.png']


def write(encoder, photos, out, **options):
    return embed(encoder, photos, out, **{**dict(size=16, num_workers=0), **options})


def test_content(encoder, photos, tmp_path, log):
    found = write(
        encoder, photos, tmp_path / 'f.npz', features=['cls', 'mean', 'patches'], batch_size=3
    )
    assert found.ids == NAMES and len(found) == 7
    assert list(found.skipped) == ['a/5-broken.png']
    assert '1 of 8 images cannot be read and are skipped: ' in log.text and '5-broken' in log.text
    wanted = encoder.encode([photos / name for name in NAMES], size=16)
    assert found.names == ['cls', 'mean', 'patches'] and found.shape('patches') == (7, 3, 2, 2)
    np.testing.assert_allclose(found['cls'], wanted.cls, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found['mean'], wanted.patches.mean((2, 3)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found['patches'], wanted.patches, rtol=1e-5, atol=1e-5)
    with pytest.raises(KeyError, match="has cls, mean, patches, not 'class'"):
        found['class']
    with np.load(tmp_path / 'f.npz') as plain:  # without cotap_mm
        assert plain['ids'].tolist() == NAMES and plain['cls'].dtype == np.float32
    assert sorted(path.name for path in tmp_path.iterdir()) == ['f.npz', 'photos']


def test_provenance(encoder, photos, tmp_path):
    about = write(encoder, photos, tmp_path / 'f.npz', dtype='float16').provenance
    assert about['weights_sha256'].startswith(encoder.weights_hash())
    assert about['encoder'] == 'Colors' and about['patch_size'] == 8 and about['count'] == 8
    assert about['images'] == str(photos) and about['size'] == 16 and about['dtype'] == 'float16'
    assert {'python', 'torch', 'cotap_mm'} <= set(about['versions'])
    found = read_features(tmp_path / 'f.npz')
    assert found.provenance == about and found['cls'].dtype == np.float16
    assert repr(found).endswith("f.npz': 7 images, cls, 1 skipped)")


def test_a_killed_run_continues_to_the_same_file(encoder, photos, tmp_path, monkeypatch, log):
    monkeypatch.setattr(module, '_ROWS', 2)
    write(encoder, photos, tmp_path / 'whole.npz', features=['cls', 'mean'], batch_size=2)
    out = tmp_path / 'f.npz'
    encoder.left = 3
    with pytest.raises(KeyboardInterrupt, match='6 of 8 images are saved; the same command'):
        write(encoder, photos, out, features=['cls', 'mean'], batch_size=2)
    assert not out.exists()
    damaged = tmp_path / 'f.npz.parts/000001.npz'
    damaged.write_bytes(damaged.read_bytes()[:-100])
    encoder.left = 2  # the damaged part and the missing one
    write(encoder, photos, out, features=['cls', 'mean'], batch_size=2)
    assert '000001.npz cannot be read' in log.text
    assert not damaged.parent.exists()
    assert out.read_bytes() == (tmp_path / 'whole.npz').read_bytes()


def test_other_settings_start_over(encoder, photos, tmp_path, monkeypatch, log):
    monkeypatch.setattr(module, '_ROWS', 2)
    encoder.left = 1
    with pytest.raises(KeyboardInterrupt):
        write(encoder, photos, tmp_path / 'f.npz', batch_size=2)
    encoder.left = None
    found = write(encoder, photos, tmp_path / 'f.npz', batch_size=2, size=24)
    assert 'other images, weights or settings; starting over' in log.text
    wanted = encoder.encode([photos / name for name in NAMES], size=24)
    np.testing.assert_allclose(found['cls'], wanted.cls, rtol=1e-5, atol=1e-5)


def test_existing_files(encoder, photos, tmp_path):
    out = tmp_path / 'f.npz'
    write(encoder, photos, out)
    encoder.left = 0  # nothing may be computed
    assert len(write(encoder, photos, out)) == 7
    with pytest.raises(ValueError, match='other images, weights or settings; choose another name'):
        write(encoder, photos, out, size=24)
    with pytest.raises(ValueError, match='other images, weights or settings'):
        write(Colors(seed=1), photos, out)
    encoder.left = None
    assert write(encoder, photos, out, size=24, overwrite=True).provenance['size'] == 24
    for name in ('g.npz', 'h.npz'):
        np.savez(tmp_path / 'h.npz', a=np.zeros(3))
        (tmp_path / 'g.npz').write_text('my notes')
        with pytest.raises(ValueError, match=f'{name} exists and is not a feature file'):
            write(encoder, photos, tmp_path / name)
    assert (tmp_path / 'g.npz').read_text() == 'my notes'
    write(encoder, photos, tmp_path / 'g.npz', overwrite=True)


def test_images_of_their_own_size(encoder, photos, tmp_path):
    found = write(encoder, photos, tmp_path / 'f.npz', size=None, features=['mean'], batch_size=5)
    for index, name in enumerate(NAMES):
        patches = encoder.encode(photos / name).patches[0]
        np.testing.assert_allclose(found['mean'][index], patches.mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_lists_and_sources(encoder, photos, tmp_path):
    paths = [photos / 'b/1.png', photos / 'a/0.png']
    found = write(encoder, paths, tmp_path / 'f.npz')
    assert found.ids == [str(path) for path in paths]
    (tmp_path / 'list.txt').write_text('b/1.png\na/0.png\n')
    listed = write(encoder, photos, tmp_path / 'g.npz', ann_file=tmp_path / 'list.txt')
    assert listed.ids == ['b/1.png', 'a/0.png'] and np.array_equal(listed['cls'], found['cls'])
    source = write(encoder, open_images(photos), tmp_path / 'h.npz')
    assert source.ids == NAMES and source.provenance['images'] == 'ImageList'


def test_deep_images_share_one_range(encoder, tmp_path):
    for name, top in (('dark', 2000), ('light', 4000)):
        (tmp_path / 'deep').mkdir(exist_ok=True)
        ramp = np.linspace(0, top, 256).reshape(16, 16).astype(np.uint16)
        Image.fromarray(ramp).save(tmp_path / f'deep/{name}.png')
    found = write(encoder, tmp_path / 'deep', tmp_path / 'f.npz')
    assert not np.allclose(found['cls'][0], found['cls'][1], atol=0.05)
    assert found.provenance['value_range'] == '0..4095'


@pytest.mark.parametrize(
    'options, error, text',
    [
        (dict(features=['clss']), ValueError, 'of cls, mean, patches, got clss'),
        (dict(features=[]), ValueError, 'got none'),
        (dict(features=['patches'], size=None), ValueError, 'patches need images of one size'),
        (dict(size=0), ValueError, 'size must be'),
        (dict(dtype='int8'), ValueError, "one of float32, float16, got 'int8'"),
        (dict(batch_size=0), ValueError, 'at least 1'),
        (dict(out='f.csv'), ValueError, "must end in .npz, .parquet, .zarr, got 'f.csv'"),
        (dict(images='nowhere'), FileNotFoundError, 'folder nowhere does not exist'),
        (dict(images=[]), TypeError, 'computed by encode'),
        (dict(images=[np.zeros((8, 8, 3), np.uint8)]), TypeError, 'computed by encode'),
        (dict(images=['a.png', 'a.png']), ValueError, 'different files'),
        (dict(images=3), TypeError, 'got int'),
        (dict(network='teacher'), ValueError, 'network applies to a checkpoint'),
        (dict(device='cuda:99'), ValueError, "device 'cuda:99' cannot be used"),
    ],
)
def test_wrong_arguments(encoder, photos, tmp_path, options, error, text):
    arguments = dict(dict(images=photos, out=tmp_path / 'f.npz'), **options)
    with pytest.raises(error, match=text):
        write(encoder, **{'photos': arguments.pop('images'), **arguments})
    assert sorted(path.name for path in tmp_path.iterdir()) == ['photos']


def test_nothing_remains_of_a_run_that_cannot_work(encoder, photos, tmp_path):
    encoder.scale = 1e6
    with pytest.raises(UserError, match='do not fit into float16; use float32'):
        write(encoder, photos, tmp_path / 'f.npz', dtype='float16', features=['mean'])
    encoder.scale = float('nan')
    with pytest.raises(UserError, match='not finite'):
        write(encoder, photos, tmp_path / 'f.npz')
    encoder.scale = 1.0
    with pytest.raises(UserError, match='none of the 1 images can be read, e.g. .*5-broken'):
        write(encoder, [photos / 'a/5-broken.png'], tmp_path / 'f.npz')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['photos']


def hold_lock(out, ready, done):
    from cotap_mm.embedding.parts import Parts
    from cotap_mm.files.locks import acquire_lock

    acquire_lock(Parts(out, '', 1, 1).lock, 'embedding', '')
    ready.set()
    done.wait(60)


def test_one_process_at_a_time(encoder, photos, tmp_path):
    context = multiprocessing.get_context('fork')
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold_lock, args=(tmp_path / 'f.npz', ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(Locked, match='in use by process .* choose another file for --out'):
            write(encoder, photos, tmp_path / 'f.npz')
    finally:
        done.set()
        other.join()
    assert len(write(encoder, photos, tmp_path / 'f.npz')) == 7


def test_a_checkpoint_is_loaded(photos, tmp_path):
    from tests.helpers.tiny import write_checkpoint

    write_checkpoint(tmp_path / 'iter_1.pth')
    options = dict(output='backbone', network='teacher', device='cpu')
    found = write(tmp_path / 'iter_1.pth', photos, tmp_path / 'f.npz', **options)
    wanted = cotap_mm.load(tmp_path / 'iter_1.pth', network='teacher', output='backbone')
    np.testing.assert_allclose(
        found['cls'], wanted.encode([photos / n for n in NAMES], size=16).cls, rtol=1e-4, atol=1e-4
    )
    assert found.provenance['checkpoint'] == str(tmp_path / 'iter_1.pth')
    assert len(found.provenance['checkpoint_sha256']) == 64
    assert not found.provenance['filter']


def test_workers_give_the_same(encoder, photos, tmp_path):
    one = write(encoder, photos, tmp_path / 'f.npz', batch_size=3)
    two = write(encoder, photos, tmp_path / 'g.npz', batch_size=3, num_workers=2)
    assert two.ids == one.ids and np.array_equal(one['cls'], two['cls'])
    assert (tmp_path / 'f.npz').read_bytes() == (tmp_path / 'g.npz').read_bytes()


@pytest.mark.parametrize('damage', ['cut', 'text', 'about', 'missing'])
def test_damaged_files_are_rejected(encoder, photos, tmp_path, damage):
    out = tmp_path / 'f.npz'
    write(encoder, photos, out)
    if damage == 'cut':
        out.write_bytes(out.read_bytes()[:200])
    elif damage == 'text':
        out.write_text('{')
    elif damage == 'missing':
        out.unlink()
    else:
        with zipfile.ZipFile(out, 'w') as archive, archive.open('about.npy', 'w') as file:
            np.save(file, np.array(json.dumps([1])))
    with pytest.raises((ValueError, FileNotFoundError), match='feature file'):
        read_features(out)


def test_is_exported():
    assert cotap_mm.embed is embed and cotap_mm.read_features is read_features
