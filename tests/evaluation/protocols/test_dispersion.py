from __future__ import annotations

import pytest
import torch
from torch import nn

from cotap_mm.evaluation import LabeledSet, ViTEncoder, dispersion
from cotap_mm.evaluation.batches import iter_batches
from cotap_mm.evaluation.protocols.dispersion import POSITION_BINS, patch_instances
from tests.helpers.pixel_scenes import PixelEncoder, noise_scenes, run_protocol, scenes

PATCHY = dict(purity=0.5)


def rows_of(encoder, dataset, num_classes, purity):
    """List of (feature, class, instance, position) of all pure patches."""
    found = []
    for indices, images, labels in iter_batches(LabeledSet(dataset, num_classes, batch_size=1)):
        patches = nn.functional.normalize(encoder(images).patches[0].double(), dim=0)
        h, w = patches.shape[1:]
        classes, instances = patch_instances(labels[0], (h, w), num_classes, purity)
        for row in range(h):
            for column in range(w):
                kind = int(classes[row * w + column])
                if kind >= 0:
                    place = (row * POSITION_BINS // h, column * POSITION_BINS // w)
                    found.append(
                        (
                            patches[:, row, column],
                            kind,
                            (indices[0], int(instances[row * w + column])),
                            place,
                        )
                    )
    return found


def within(rows, key):
    """Mean squared distance to the mean of the group."""
    groups = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row[0])
    total = sum(
        float((torch.stack(group) - torch.stack(group).mean(0)).square().sum())
        for group in groups.values()
    )
    return total / len(rows)


def test_matches_slow_groups():
    encoder, dataset = PixelEncoder(), noise_scenes(4)
    found = dispersion(encoder, LabeledSet(dataset, 3), **PATCHY)
    rows = rows_of(encoder, dataset, 3, 0.5)
    total = within(rows, lambda row: 0)
    instance = within(rows, lambda row: row[2])
    kind = within(rows, lambda row: row[1])
    assert found['variance'] == pytest.approx(total)
    assert found['within_instance'] == pytest.approx(100 * instance / total)
    assert found['between_instances'] == pytest.approx(100 * (kind - instance) / total)
    assert found['between_classes'] == pytest.approx(100 * (total - kind) / total)
    place = within(rows, lambda row: row[3])
    assert found['position'] == pytest.approx(100 * (total - place) / total)
    features = torch.stack([row[0] for row in rows])
    values = torch.linalg.eigvalsh(torch.cov(features.T))
    share = values / values.sum()
    assert found['effective_rank'] == pytest.approx(float((-(share * share.log()).sum()).exp()))


def test_silhouette_matches_a_loop():
    encoder, dataset = PixelEncoder(), noise_scenes(3)
    rows = rows_of(encoder, dataset, 3, 0.5)
    means = {
        kind: torch.stack([row[0] for row in rows if row[1] == kind]).mean(0)
        for kind in {row[1] for row in rows}
    }
    values = []
    for feature, kind, _, _ in rows:
        a = float((feature - means[kind]).norm())
        b = min(float((feature - mean).norm()) for other, mean in means.items() if other != kind)
        values.append((b - a) / max(a, b))
    found = dispersion(encoder, LabeledSet(dataset, 3), **PATCHY)
    assert found['silhouette'] == pytest.approx(sum(values) / len(values), abs=1e-5)


def test_class_features_vary_only_between_classes():
    found = dispersion(PixelEncoder(), LabeledSet(scenes(6), 3))
    assert found['within_instance'] == pytest.approx(0, abs=1e-4)
    assert found['between_classes'] == pytest.approx(100, abs=1e-4)
    assert found['silhouette'] == pytest.approx(1, abs=1e-3)


def test_position_features_are_explained_by_position():
    place = PixelEncoder(
        lambda x: torch.stack(
            [torch.arange(16.0).view(4, 4).cos(), torch.arange(16.0).view(4, 4).sin()]
        )[None].expand(len(x), -1, -1, -1)
    )
    found = dispersion(place, LabeledSet(scenes(6), 3))
    assert found['position'] == pytest.approx(100, abs=1e-4)
    assert found['between_classes'] < 30


def test_instances_are_connected_components():
    label = torch.tensor([[0, 0, 1, 255], [1, 0, 1, 0]])
    classes, instances = patch_instances(label, (2, 4), 2, 1.0)
    assert classes.tolist() == [0, 0, 1, -1, 1, 0, 1, 0]
    first, _, second, _, third, again, same, alone = instances.tolist()
    assert first == again and second == same
    assert len({first, second, third, alone}) == 4


def test_all_blocks_are_measured():
    from mmpretrain.models import VisionTransformer

    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    vit = VisionTransformer(arch=arch, img_size=16, patch_size=4, out_type='raw')
    found = dispersion(ViTEncoder(vit), LabeledSet(scenes(3), 3))
    assert len(found['layers']) == 2
    for layer in found['layers']:
        parts = [layer[key] for key in ('within_instance', 'between_instances', 'between_classes')]
        assert sum(parts) == pytest.approx(100)
    for number, layer in enumerate(found['layers']):

        def block(images, number=number):
            return images.mean(dim=(2, 3)), ViTEncoder(vit).layers(images)[number]

        alone = PixelEncoder()
        alone._encode = block
        wanted = dispersion(alone, LabeledSet(scenes(3), 3))
        assert {key: layer[key] for key in wanted if key != 'layers'} == pytest.approx(
            {key: value for key, value in wanted.items() if key != 'layers'}, rel=1e-4
        )
    assert found['layers'][0]['variance'] != pytest.approx(found['layers'][1]['variance'])
    assert (
        'layers' in found
        and not dispersion(ViTEncoder(vit), LabeledSet(scenes(3), 3), layers=False)['layers']
    )


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(purity=0), r'purity must be in \(0, 1\]'),
        (dict(dataset=[]), 'must contain images'),
        (
            dict(
                dataset=[
                    dict(
                        image=torch.zeros(3, 8, 8, dtype=torch.uint8), label=torch.full((8, 8), 255)
                    )
                ]
            ),
            'no patch of 1 images',
        ),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        run_protocol(dispersion, PixelEncoder(), **{'dataset': scenes(1), **options})
