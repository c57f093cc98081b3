"""Crops on the training device: the batches, draws and losses of crops in the workers."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate as mmengine_collate
from torch.utils.data import DataLoader, default_collate

from cotap_mm.datasets import NeighborPairs, Visit
from cotap_mm.datasets import decoded_images as module
from cotap_mm.datasets import neighbor_pairs as pairs_module
from cotap_mm.models import CoTAPDataPreprocessor, device_crops
from cotap_mm.models.device_crops import first_crops, with_crops
from cotap_mm.ops.resampling import crops as resampling
from cotap_mm.registry import DATA_SAMPLERS, TRANSFORMS
from tests.helpers.no_waiting import WorkOnMeta
from tests.helpers.tiny import build_tiny

CROPS = dict(global_size=32, local_size=16)


class Sizes:
    """In-memory images of different shapes; those in ``bad`` cannot be decoded."""

    def __init__(self, arrays, bad=(), scale=1):
        self.source, self.scale = arrays(10, bad), scale
        self.names = self.source.names

    def __len__(self):
        return len(self.source)

    def name(self, index):
        return self.source.name(index)

    def read(self, index, is_large_enough=None):
        self.source.read(index, is_large_enough)
        rng = np.random.default_rng(index)
        shape = self.scale * (40 + 3 * index), self.scale * (70 - 2 * index), 3
        return rng.integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def both(arrays, ring):
    """Data sets that crop in the worker and on the device."""

    def make(with_cls=False, bad=(), scale=1, crops=CROPS):
        def data(crop_on):
            source = Sizes(arrays, bad, scale)
            other = Sizes(arrays, bad, scale) if with_cls else None
            nearest = ring(source.names)
            return NeighborPairs(
                *(source, nearest, other, nearest if with_cls else None),
                num_neighbors=3,
                crops=crops,
                crop_on=crop_on,
            )

        return data('worker'), data('device')

    return make


def assert_same(one, other):
    assert set(one) == set(other) == {'patch', 'cls'}
    for branch, crops in one.items():
        assert set(crops) == set(other[branch])
        for key, value in crops.items():
            expected = other[branch][key]
            same = value == expected if key == 'path' else torch.equal(value, expected)
            assert same, (branch, key)


@pytest.mark.parametrize('collate', [default_collate, mmengine_collate])
@pytest.mark.parametrize('with_cls', [False, True])
@pytest.mark.parametrize('at_once', [False, True])
def test_the_same_batches(both, collate, with_cls, at_once, monkeypatch):
    if at_once:  # as on a GPU
        resize = partial(resampling.resize_regions, at_once=True)
        monkeypatch.setattr('cotap_mm.models.device_crops.resize_regions', resize)
    here, there = both(with_cls, bad=[2, 3])
    keys = [Visit(index=index, count=1, seed=5) for index in (0, 7, 2, 9)]
    wanted = collate([here[key] for key in keys])
    batch = collate([there[key] for key in keys])
    assert 'global_crops' not in batch['patch']
    assert_same(with_crops(batch), wanted)
    assert torch.equal(first_crops(batch, 3), first_crops(wanted, 3))
    assert first_crops(wanted, 3).shape == (3, 3, 32, 32)
    assert with_crops(wanted) == wanted  # already cropped


def test_no_local_crops(both):
    here, there = both(crops=dict(CROPS, num_local=0))
    key = Visit(index=1, count=0, seed=0)
    assert_same(with_crops(default_collate([there[key]])), default_collate([here[key]]))


@pytest.mark.parametrize('part', [module._PART, 1000])  # images may span parts
def test_samples_of_a_batch_share_memory(both, part, monkeypatch):
    monkeypatch.setattr(module, '_PART', part)
    data = both()[1]
    keys = [Visit(index=index, count=0, seed=0) for index in (3, 8)]
    batch = default_collate(data.__getitems__(keys))
    assert_same(with_crops(batch), with_crops(default_collate([data[key] for key in keys])))
    pixels = batch['images']['pixels']
    assert len(pixels) == -(-sum(map(len, pixels)) // part)


@pytest.mark.parametrize('there', [0, 1])
def test_a_loader_asks_a_subclass_for_each_sample(both, there):
    class Marked(NeighborPairs):
        def __getitem__(self, key):
            return dict(super().__getitem__(key), mark=key.index)

    data = both()[there]
    data.__class__ = Marked
    keys = [Visit(index=index, count=0, seed=0) for index in (3, 8)]
    assert [sample['mark'] for sample in data.__getitems__(keys)] == [3, 8]


def test_an_image_of_both_branches_travels_once(both):
    key = Visit(index=4, count=0, seed=0)
    for with_cls, data in ((False, both()[1]), (True, both(with_cls=True)[1])):
        sample = data[key]
        names = [name for branch in ('patch', 'cls') for name in sample[branch]['path']]
        numbers = [int(name[:3]) for name in (names if with_cls else set(names))]
        assert len(sample['images'].regions) == 4 and len(numbers) == 4 - (not with_cls)
        shapes = [(40 + 3 * number, 70 - 2 * number) for number in numbers]
        assert len(sample['images'].store) == sum(height * width for height, width in shapes)


def test_large_images_are_cropped_in_the_worker(both):
    here, there = both(scale=4)
    of_crops = 2 * 32**2 + 4 * 16**2
    keys = [Visit(index=index, count=0, seed=0) for index in range(3)]
    batch = default_collate([there[key] for key in keys])
    assert sum(map(len, batch['images']['pixels'])) == 3 * 4 * of_crops
    assert_same(with_crops(batch), default_collate([here[key] for key in keys]))


def test_the_same_losses(both):
    values = []
    for data in both():
        torch.manual_seed(0)
        model, keys = build_tiny(), [Visit(index=index, count=0, seed=1) for index in range(4)]
        batch = default_collate([data[key] for key in keys])
        for _ in range(2):
            losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
        values.append({name: value.item() for name, value in losses.items()})
    assert values[0] == values[1] and sum(values[0].values()) > 0


def batches(data, workers, skip=0):
    """Batches of an interrupted and resumed run, whose sampler skips what was seen."""
    sampler = DATA_SAMPLERS.build(dict(type='VisitSampler', dataset=data, seed=3))
    loader = iter(DataLoader(data, batch_size=5, num_workers=workers, sampler=sampler))
    return [next(loader) for _ in range(4)][skip:]


def test_workers_and_a_resumed_loader_give_the_same_crops(both):
    here, there = both()
    wanted = batches(here, 0)
    started, resumed = batches(there, 2)[:2], batches(there, 1, skip=2)
    for batch, expected in zip([*started, *resumed], wanted):
        assert type(batch['images']['pixels']) is list
        assert_same(with_crops(batch), expected)


def test_a_batch_can_be_stored(both):
    """As the bundle for steps that are not finite is."""
    data = both()[1]
    batch = default_collate([data[Visit(index=0, count=0, seed=0)]])
    assert_same(with_crops(pickle.loads(pickle.dumps(batch))), with_crops(batch))


class OtherCrop:
    """Crops of the user's own."""

    is_large_enough = None


def test_where_to_crop(arrays, ring, monkeypatch):
    source = arrays(5)
    monkeypatch.setitem(TRANSFORMS.module_dict, 'OtherCrop', OtherCrop)

    def on_device(crop_on, has_gpu=False, **crops):
        monkeypatch.setattr(pairs_module, 'is_cuda_available', lambda: has_gpu)
        data = NeighborPairs(
            source, ring(source.names), num_neighbors=3, crops=crops, crop_on=crop_on
        )
        return data.crops_on_device

    assert not on_device('worker', True) and on_device('device') and on_device('device_jpeg')
    assert on_device('auto', True) and not on_device('auto')
    assert not on_device('auto', True, type='OtherCrop')
    with pytest.raises(ValueError, match="crop_on='device' needs crops of MultiCrop, got OtherCr"):
        on_device('device', type='OtherCrop')
    with pytest.raises(ValueError, match="crop_on must be one of .*'worker'.*, got 'gpu'"):
        on_device('gpu')


def test_largest_image_that_travels():
    assert module._LARGEST * (2 * 224**2 + 4 * 96**2) > 640 * 480  # as the documentation says


def test_a_device_that_cannot_crop_is_replaced_by_the_cpu(both, monkeypatch):
    here, there = both()
    keys = [Visit(index=index, count=0, seed=0) for index in range(3)]
    wanted, batch = (default_collate([data[key] for key in keys]) for data in (here, there))
    shown = []
    monkeypatch.setattr(device_crops, 'print_log', lambda text, **_: shown.append(text))
    monkeypatch.setattr(device_crops, '_is_right', {})
    for _ in range(2):  # checked once
        crops = with_crops(batch, 'meta')['patch']['global_crops']
        assert crops.device.type == 'meta'
        assert crops.shape == wanted['patch']['global_crops'].shape
    (text,) = shown
    assert text.startswith('cutting crops on meta gives an error: ')
    assert "crop_on='worker'" in text
    assert device_crops._is_right == dict(meta=False)

    cpu = torch.device('cpu')
    assert device_crops._cuts_as_the_cpu(batch, cpu) and len(shown) == 1
    results = iter(range(9))
    monkeypatch.setattr(device_crops, '_cut', lambda *_: torch.tensor(next(results)))
    assert not device_crops._cuts_as_the_cpu(batch, cpu)
    assert shown[1].startswith('cutting crops on cpu gives other pixels than the CPU. They are cut')


def test_regions_and_colors_travel_together(both, monkeypatch):
    monkeypatch.setattr(device_crops, '_is_right', dict(meta=True))
    monkeypatch.setattr(torch, 'autocast', lambda *_, **__: nullcontext())  # does not support meta
    batch = default_collate([both()[1][Visit(index=index, count=0, seed=0)] for index in (1, 4)])
    model = CoTAPDataPreprocessor().to('meta')
    monkeypatch.setattr(torch.Tensor, 'is_pinned', lambda _: True)  # as a loader for a GPU does
    with WorkOnMeta(*model.buffers()) as mode:
        views = model(batch, training=True)['inputs']['patch']
    assert views['student_local'].shape == (4, 4, 3, 16, 16)
    pixels = [tuple(part.shape) for part in batch['images']['pixels']]
    numbers = [each for each in mode.copies if tuple(each.shape) not in pixels]
    assert len(mode.copies) == len(pixels) + 1 and numbers[0].dtype == torch.uint8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_the_same_batches_on_a_gpu(both):
    here, there = both()
    wanted, got = (
        list(
            DataLoader(
                *(data, 5),
                sampler=[Visit(index=index, count=0, seed=0) for index in range(10)],
                num_workers=2,
                pin_memory=True,
            )
        )
        for data in (here, there)
    )
    for batch, expected in zip(got, wanted):
        assert all(part.is_pinned() for part in batch['images']['pixels'])
        crops = with_crops(batch, 'cuda')
        assert device_crops._is_right['cuda']
        assert crops['patch']['global_crops'].is_cuda
        for branch in crops.values():
            moved = {key: branch[key].cpu() for key in ('global_crops', 'local_crops')}
            branch.update(moved)
        assert_same(crops, expected)
