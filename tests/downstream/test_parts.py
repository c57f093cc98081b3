"""The paper's probe head, COCO-Stuff-27, and the crop for labeled images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.datasets import COCOStuffDataset

from cotap_mm.downstream import BottleneckFCNHead, COCOStuff27Dataset, RandomResizedCropSeg
from cotap_mm.downstream.coco_stuff27 import _STUFF, _THINGS
from tests.helpers.fake_data import coco_stuff


def test_bottleneck_head():
    with DefaultScope.overwrite_default_scope('mmseg'):
        head = BottleneckFCNHead(in_channels=32, hidden_channels=(16, 16, 8), num_classes=5)
    logits = head([torch.randn(2, 32, 4, 6)])
    assert logits.shape == (2, 5, 32, 48)  # doubled three times
    logits.sum().backward()
    assert all(value.grad is not None for value in head.parameters())
    assert head.dropout.p == 0.1
    # In a residual block with a zero last norm, only the shortcut remains.
    block = head.blocks[1].eval()
    torch.nn.init.zeros_(block.bn3.weight)
    x = torch.rand(1, 16, 4, 4)
    assert torch.equal(block(x), x)


def test_bottleneck_head_requires_multiples_of_four():
    with (
        pytest.raises(ValueError, match='multiples of 4, got 6'),
        DefaultScope.overwrite_default_scope('mmseg'),
    ):
        BottleneckFCNHead(in_channels=32, hidden_channels=(6,), num_classes=5)


def test_coco_stuff_27_covers_each_class_once():
    names = [name for part in (_THINGS, _STUFF) for names in part.values() for name in names]
    assert sorted(names) == sorted(COCOStuffDataset.METAINFO['classes'])
    assert (len(_THINGS), len(_STUFF)) == (12, 15)
    things = {name for names in _THINGS.values() for name in names}
    assert things == set(COCOStuffDataset.METAINFO['classes'][:80])
    mapping = COCOStuff27Dataset.get_label_map()
    assert sorted(mapping) == list(range(171)) and set(mapping.values()) == set(range(27))
    classes = COCOStuff27Dataset.METAINFO['classes']
    fine = COCOStuffDataset.METAINFO['classes']
    for name, kind in (
        ('person', 'person'),
        ('bus', 'vehicle'),
        ('river', 'water'),
        ('wood', 'solid'),
        ('fog', 'water'),
        ('light', 'furniture-stuff'),
    ):
        assert classes[mapping[fine.index(name)]] == kind


@pytest.mark.slow
def test_coco_stuff_27_reads_merged_labels_and_curated_lists(tmp_path):
    coco_stuff(tmp_path, count=3)
    (tmp_path / 'curated.txt').write_text('2\n')
    options = dict(
        data_root=str(tmp_path / 'data/coco_stuff164k'),
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        joined, fine = COCOStuff27Dataset(**options), COCOStuffDataset(**options)
        curated = COCOStuff27Dataset(ann_file=str(tmp_path / 'curated.txt'), **options)
        found, wanted = joined[0]['gt_seg_map'], fine[0]['gt_seg_map']
    mapping = {**COCOStuff27Dataset.get_label_map(), 255: 255}
    assert np.array_equal(found, np.vectorize(mapping.get)(wanted)) and 255 in found
    assert len(joined) == 3 and len(curated) == 1
    assert curated.get_data_info(0)['img_path'].endswith('2.jpg')
    (tmp_path / 'data/coco_stuff164k/curated.txt').write_text('1\n2\n')
    with DefaultScope.overwrite_default_scope('mmseg'):
        curated = COCOStuff27Dataset(ann_file='curated.txt', **options)  # relative to data_root
    assert [part['img_path'][-5:] for part in curated.load_data_list()] == ['1.jpg', '2.jpg']
    with pytest.raises(ValueError, match='always has its 27 classes'):
        COCOStuff27Dataset(metainfo=dict(classes=('person',)), **options)


def test_random_resized_crop_aligns_labels_and_pixels():
    np.random.seed(0), torch.manual_seed(0)
    labels = np.arange(4, dtype=np.uint8).repeat(25)[None].repeat(60, axis=0)  # (60, 100)
    image = (labels[..., None] * 60).repeat(3, axis=-1)
    crop = RandomResizedCropSeg(scale=(32, 48), area=(0.3, 0.6))
    sizes = set()
    for _ in range(20):
        results = crop(dict(img=image, gt_seg_map=labels, seg_fields=['gt_seg_map']))
        assert results['img'].shape == (32, 48, 3) and results['img_shape'] == (32, 48)
        assert results['gt_seg_map'].shape == (32, 48)
        assert set(np.unique(results['gt_seg_map'])) <= {0, 1, 2, 3}
        agree = results['img'][..., 0] == results['gt_seg_map'] * 60
        assert agree.mean() > 0.8  # except blended borders
        sizes.add(tuple(results['gt_seg_map'][0]))
    assert len(sizes) > 5
    assert RandomResizedCropSeg(scale=16).scale == (16, 16)
    with pytest.raises(ValueError, match=r'area must satisfy .* got \(0, 1\)'):
        RandomResizedCropSeg(scale=16, area=(0, 1))
