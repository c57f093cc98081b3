"""The study of foregrounds at toy size."""

from __future__ import annotations

import json

import foregrounds as tool
import labeled_patches
import numpy as np
import planted_outliers
import pytest
import torch
from PIL import Image

from tests.helpers.tiny import build_tiny


def make_patches(objects, grid=(4, 4)):
    """Patches of 4 pixels each."""
    objects = torch.tensor(objects, dtype=torch.float64)
    return labeled_patches.LabeledPatches(None, grid, objects, torch.full_like(objects, 4))


def test_baselines_have_as_many_patches():
    mask = torch.rand(5, 16) < 0.4
    counts = mask.sum(dim=1)
    drawn, other = (tool.random_patches(mask, seed) for seed in (0, 1))
    central = tool.central_patches(mask, (4, 4))
    for found in (drawn, other, central):
        assert torch.equal(found.sum(dim=1), counts)
    assert not torch.equal(drawn, other)
    four = tool.central_patches(torch.arange(16)[None] < 4, (4, 4))[0].view(4, 4)
    assert four[1:3, 1:3].all()


def test_scores_by_hand():
    """Two images, and one without objects, which does not count."""
    patches = make_patches([[4, 2] + [0] * 14, [4] * 16, [0] * 16])
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[0, :1] = True
    mask[1, :8] = True
    mask[2, :] = True
    planted = torch.tensor([[0, 1], [0, 1], [0, 1]])
    found = tool.measure_mask(mask, patches, planted, 0)
    assert found['iou'] == pytest.approx(50 * (4 / 6 + 32 / 64), abs=1e-3)
    assert found['precision'] == pytest.approx(100)
    assert found['recall'] == pytest.approx(50 * (4 / 6 + 1 / 2), abs=1e-3)
    assert found['share'] == pytest.approx(100 * 25 / 48, abs=1e-3)
    assert found['planted'] == pytest.approx(100 * 5 / 6, abs=1e-3)


@pytest.mark.parametrize('name', ['large', 'key', 'quiet'])
def test_outliers_are_what_they_should_be(name):
    torch.manual_seed(0)
    network = build_tiny(num_registers=2).eval().requires_grad_(False).teacher.backbone
    entering, grid = network.forward_entering(torch.randn(3, 3, 64, 80))
    outliers = planted_outliers.OUTLIERS[name]
    tokens, chosen = planted_outliers.plant(network, entering, grid, outliers, seed=1)
    assert tokens.shape == entering.shape and chosen.shape == (3, 2)  # 2 % of 80
    changed = (tokens != entering).any(dim=2)
    assert torch.equal(changed.sum(dim=1), torch.tensor([2, 2, 2])) and not changed[:, :3].any()
    norms = torch.linalg.vector_norm(tokens[:, 3:], dim=2)
    usual = torch.linalg.vector_norm(entering[:, 3:], dim=2).median()
    torch.testing.assert_close(
        norms.gather(1, chosen), (outliers.ratio * usual).expand(3, 2), rtol=1e-5, atol=0
    )
    if name != 'key':
        before, after = (
            network.cls_attention(x, grid).mean(dim=1).gather(1, chosen).sum()
            for x in (entering, tokens)
        )
        assert after > before
    assert not torch.equal(
        chosen, planted_outliers.plant(network, entering, grid, outliers, seed=2)[1]
    )


def test_blocks_of_outliers_lie_within_the_grid():
    for seed in range(20):
        chosen = planted_outliers._draw_blocks(2, (4, 9), 3, seed)
        assert chosen.shape == (2, 9)  # one block is more than 2 % of 36
        rows, columns = chosen // 9, chosen % 9
        for where, last in ((rows, 3), (columns, 8)):
            low, high = where.amin(dim=1), where.amax(dim=1)
            assert torch.equal(high - low, torch.tensor([2, 2])) and high.max() <= last
    assert planted_outliers._draw_blocks(1, (30, 30), 3, 0).shape == (1, 18)


def test_a_fitted_cls_attends_to_objects():
    torch.manual_seed(0)
    network = build_tiny().eval().requires_grad_(False).teacher.backbone
    entering, grid = network.forward_entering(torch.randn(4, 3, 32, 32))
    share = torch.zeros(4, 16)
    share[:3, 5:7] = 1
    entering[:3, 6:8] += 3 * torch.randn(16)  # objects look alike
    cls = planted_outliers.fit_cls(network, entering, grid, share)
    fitted = torch.cat([cls.expand(4, 1, -1), entering[:, 1:]], dim=1)
    before, after = (network.cls_attention(x, grid)[:3, :, 5:7].mean() for x in (entering, fitted))
    assert after > 1.3 * before


def write_images(root):
    """Folders of CamVid's and raccoon's form, with one square each."""
    rng = np.random.default_rng(0)
    for kind in ('camvid/images', 'camvid/labels'):
        for split in ('train', 'val'):
            (root / kind / split).mkdir(parents=True)
    (root / 'raccoon/images').mkdir(parents=True)
    for split in ('train', 'val'):
        coco = dict(images=[], annotations=[])
        for index in range(3):
            pixels = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
            labels = np.full((90, 120), 3, np.uint8)  # road
            labels[30:60, 40:80] = 8  # car
            Image.fromarray(pixels).save(root / f'camvid/images/{split}/{index}.jpg')
            Image.fromarray(labels).save(root / f'camvid/labels/{split}/{index}.png')
            name = f'{split}{index}.jpg'
            Image.fromarray(pixels).save(root / 'raccoon/images' / name)
            coco['images'].append(dict(id=index, file_name=name))
            coco['annotations'].append(dict(image_id=index, bbox=[40.0, 30.0, 40.0, 30.0]))
        (root / f'raccoon/{split}.json').write_text(json.dumps(coco))


def test_boxes_become_labels(tmp_path):
    write_images(tmp_path)
    sample = labeled_patches.BoxImages(tmp_path / 'raccoon', 'val.json')[1]
    assert sample['image'].shape == (3, 90, 120) and sample['label'].sum() == 30 * 40
    assert sample['label'][30:60, 40:80].all()
    (tmp_path / 'raccoon/val.json').write_text('{"images": [{}]}')
    with pytest.raises(ValueError, match='as in COCO .*give another folder'):
        labeled_patches.BoxImages(tmp_path / 'raccoon', 'val.json')


@pytest.mark.slow
def test_run_and_its_page(tmp_path, monkeypatch):
    write_images(tmp_path)
    monkeypatch.setattr(labeled_patches, '_SIZES', dict.fromkeys(labeled_patches.DATA, (48, 64)))
    tool.main(
        [
            '--out',
            str(tmp_path / 'docs'),
            '--work-dir',
            str(tmp_path / 'work'),
            '--data',
            *labeled_patches.DATA,
            '--camvid',
            str(tmp_path / 'camvid'),
            '--raccoon',
            str(tmp_path / 'raccoon'),
            '--seeds',
            '0',
            '1',
            '--images',
            '3',
        ]
    )
    runs = json.loads((tmp_path / 'docs/foregrounds.json').read_text())['runs']
    assert len(runs) == 3 * 2 * len(planted_outliers.OUTLIERS) * 2
    first = {(run['data'], run['cls'], run['outliers']): run for run in reversed(runs)}
    own = [first['camvid', 'own', name] for name in ('none', 'large', 'quiet')]
    clean, large, quiet = own
    # Boxes and masks of the same images are the same objects.
    assert clean['ClsAttention iou'] == first['raccoon', 'own', 'none']['ClsAttention iou']
    assert clean['everything'] == pytest.approx(100 * 1200 / (90 * 120), abs=1e-3)
    # LayerNorm hides the norm from the attention, but not from ClippedAttention.
    assert large['ClsAttention iou'] == pytest.approx(quiet['ClsAttention iou'], abs=1e-3)
    assert large['ClippedAttention planted'] == 0 < quiet['ClippedAttention planted']
    assert first['camvid', 'fitted', 'none']['PcaForeground iou'] == clean['PcaForeground iou']
    page = (tmp_path / 'docs/foregrounds.md').read_text()
    assert page.count('| camvid | own | MedianAttention |') == 2
    assert (tmp_path / 'docs/foregrounds.png').is_file()
