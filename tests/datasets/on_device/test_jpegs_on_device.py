"""JPEGs that travel as files: the batches are those of the workers; what is damaged is named."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from cotap_mm.datasets import (
    ImageList,
    NeighborPairs,
    Visit,
    collate_samples,
    decoded_images,
    start_worker,
)
from cotap_mm.errors import UserError
from cotap_mm.models import device_jpegs
from cotap_mm.models.device_crops import first_crops, with_crops

from .test_crops_on_device import CROPS, assert_same

KEYS = [Visit(index=index, count=0, seed=2) for index in range(8)]
CPU = torch.device('cpu')


def jpeg(number, mode='RGB', size=None, **options):
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize(size or (70 + number, 50 - number), Image.BICUBIC)
    data = io.BytesIO()
    image.convert(mode).save(data, 'JPEG', quality=90, **options)
    return data.getvalue()


def without_tables(data):
    """Remove the quantization tables; the header is still that of a plain JPEG."""
    while (at := data.find(b'\xff\xdb')) > 0:
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], 'big') :]
    return data


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return dict(exif=exif)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for number in range(5):
        (folder / f'{number}.jpg').write_bytes(jpeg(number, progressive=number == 3))
    unusual = dict(
        gray=jpeg(5, 'L'),
        cmyk=jpeg(6, 'CMYK'),
        rotated=jpeg(7, progressive=True, **rotated()),
        cut=jpeg(8)[:-40],
        large=jpeg(9, size=(200, 190)),
    )
    for name, data in unusual.items():
        (folder / f'{name}.jpg').write_bytes(data)
    Image.open(folder / '2.jpg').save(folder / 'other.png')
    return folder


@pytest.fixture
def pairs(folder, ring):
    def make(crop_on, kind=ImageList):
        source = kind(folder)
        nearest = ring(source.names)
        return NeighborPairs(source, nearest, num_neighbors=3, crops=CROPS, crop_on=crop_on)

    return make


def loader(data, workers=1):
    return DataLoader(
        data,
        4,
        sampler=[Visit(index=index, count=0, seed=2) for index in range(len(data))],
        num_workers=workers,
        worker_init_fn=start_worker,
        collate_fn=collate_samples,
    )


@pytest.mark.parametrize('part', [decoded_images.PART, 2000])  # some files are larger
def test_the_same_batches(pairs, part, monkeypatch):
    monkeypatch.setattr(decoded_images, 'PART', part)
    files = 0
    for workers in (0, 1):
        for batch, wanted in zip(
            loader(pairs('device_jpeg'), workers), loader(pairs('worker'), workers)
        ):
            assert_same(with_crops(batch), wanted)
            assert torch.equal(first_crops(batch, 3), first_crops(wanted, 3))
            files += len(batch['images'].get('jpeg_sizes', ()))
    assert files


@pytest.mark.parametrize('keys', [KEYS, KEYS[:1]])  # one sample, of plain JPEGs only
def test_samples_that_do_not_share_memory(pairs, keys):
    batches = [
        default_collate([pairs(on)[key] for key in keys]) for on in ('device_jpeg', 'worker')
    ]
    assert_same(with_crops(batches[0]), batches[1])
    assert bool(batches[0]['images']['pixels']) == (len(keys) > 1)
    assert_same(with_crops(pickle.loads(pickle.dumps(batches[0]))), batches[1])


def test_only_plain_jpegs_travel(pairs):
    data = pairs('device_jpeg')
    seen = {False: set(), True: set()}
    for key in range(len(data)):
        sample = data[Visit(index=key, count=0, seed=0)]
        paths = [path for branch in ('patch', 'cls') for path in sample[branch]['path']]
        for path, regions in zip(paths, sample['images'].regions):
            seen[regions[0][0] < 0].add(path)
    assert seen[True] == {f'{number}.jpg' for number in range(5)}
    unusual = ('gray.jpg', 'cmyk.jpg', 'rotated.jpg', 'large.jpg', 'other.png')
    assert seen[False] == set(unusual)  # and cut.jpg is replaced


def test_a_source_that_changes_pixels_decodes_in_the_worker(pairs):
    class Negative(ImageList):
        def read(self, index, is_large_enough=None):
            return 255 - super().read(index, is_large_enough)

    batches = [
        default_collate(pairs(on, Negative).__getitems__(KEYS)) for on in ('device_jpeg', 'worker')
    ]
    assert 'jpeg_files' not in batches[0]['images']
    assert_same(with_crops(batches[0]), batches[1])


def test_a_damaged_file_is_named(pairs, folder):
    (folder / '1.jpg').write_bytes(without_tables(jpeg(1)))
    batch = default_collate(pairs('device_jpeg').__getitems__(KEYS))
    with pytest.raises(UserError, match=r"^1\.jpg: .*cannot be replaced .* crop_on='device'$"):
        with_crops(batch)
    default_collate(pairs('device').__getitems__(KEYS))  # replaces it


def decoder(fails):
    """As of a GPU: decodes lists, and none if it cannot decode one."""
    real = device_jpegs.decode_jpeg

    def decode(files, mode, device):
        if device == CPU:
            return real(files, mode, device=device)
        each = files if isinstance(files, list) else [files]
        if any(fails(file) for file in each):
            raise RuntimeError('nvjpeg: 3')
        decoded = [real(file, mode) for file in each]
        return decoded if isinstance(files, list) else decoded[0]

    return decode


def test_what_a_device_cannot_decode(pairs, monkeypatch):
    shown = []
    monkeypatch.setattr(device_jpegs, 'print_log', lambda text, **_: shown.append(text))
    monkeypatch.setattr(device_jpegs, '_unable', set())
    files = [torch.frombuffer(bytearray(jpeg(number)), dtype=torch.uint8) for number in range(3)]
    wanted, device = device_jpegs._decode(files, CPU), torch.device('meta')

    def decode(fails):
        monkeypatch.setattr(device_jpegs, 'decode_jpeg', decoder(fails))
        return device_jpegs._decode(files, device)

    original = device_jpegs.decode_jpeg
    for fails, ok in ((lambda _: False, [1, 1, 1]), (lambda file: file is files[1], [1, 0, 1])):
        found = decode(fails)
        assert [each is not None for each in found] == ok and not shown
        assert all(a is None or torch.equal(a, b) for a, b in zip(found, wanted))
        monkeypatch.setattr(device_jpegs, 'decode_jpeg', original)
    assert decode(lambda _: True) == [None] * 3 and len(shown) == 1
    assert 'nvjpeg: 3' in shown[0] and "crop_on='device'" in shown[0]
    assert all(map(torch.equal, device_jpegs._decode(files, device), wanted)) and len(shown) == 1


@pytest.mark.parametrize('found', [None, torch.zeros(3, 1, 1, dtype=torch.uint8)])
def test_one_that_is_missing_is_decoded_as_in_a_worker(pairs, found, monkeypatch):
    batches = [default_collate(pairs(on).__getitems__(KEYS)) for on in ('device_jpeg', 'worker')]
    decode = device_jpegs._decode
    monkeypatch.setattr(device_jpegs, '_decode', lambda *a: [found, *decode(*a)[1:]])
    assert_same(with_crops(batches[0]), batches[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_nearly_the_same_batches_on_a_gpu(pairs):
    batches = [default_collate(pairs(on).__getitems__(KEYS)) for on in ('device_jpeg', 'worker')]
    found = with_crops(batches[0], 'cuda')
    assert not device_jpegs._unable
    for branch, wanted in batches[1].items():
        crops = found[branch]['global_crops'].cpu().float()
        assert (crops - wanted['global_crops'].float()).abs().mean() < 3
