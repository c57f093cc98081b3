from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from cotap_mm.visualization import ImageSet, Report, project
from cotap_mm.visualization.figures.projection import LabeledPatches
from cotap_mm.visualization.figures.similarity import similarity_map
from cotap_mm.visualization.report import sections
from cotap_mm.visualization.report.panels import all_clusters, comparison_columns, patch_on_grid

RED, GREEN = (200, 0, 0), (0, 200, 0)


@pytest.fixture
def report():
    return Report('test', '')


@pytest.fixture
def images():
    """Three images, red on the left and green on the right; the third is mirrored."""
    one = np.zeros((16, 24, 3), dtype=np.uint8)
    one[:, :12], one[:, 12:] = RED, GREEN
    return ImageSet(['a', 'b', 'c'], [one, one.copy(), one[:, ::-1].copy()])


def features(height=2, width=4):
    """Return the features of a perfect network for these images."""
    left = torch.zeros(4, height, width)
    left[0, :, : width // 2], left[1, :, width // 2 :] = 1, 1
    return torch.stack([left, left, left.flip(2)]) + 0.01 * torch.rand(3, 4, height, width)


def picture(report, name):
    return np.asarray(Image.open(io.BytesIO(report.pictures[f'{name}.png'])))


def similarity_maps(patches, patch, grid):
    place = patch_on_grid(patch, grid, patches)
    return [similarity_map(patches[patch[0]], place, other) for other in patches]


def test_similarity_follows_the_patch_into_all_images():
    maps = similarity_maps(features(), (0, 1, 3), (2, 4))
    assert (maps[0][:, 2:] > 0.95).all() and (maps[0][:, :2] < 0.1).all()
    assert (maps[2][:, :2] > 0.95).all() and (maps[2][:, 2:] < 0.1).all()
    # The same location on a grid of twice as many patches.
    finer = similarity_maps(features(4, 8), (0, 1, 3), (2, 4))
    assert finer[0][3, 7] == pytest.approx(1) and (finer[0][:, :4] < 0.1).all()


def test_clusters_of_networks_have_matching_numbers():
    found = all_clusters({'one': features(), 'two': features(4, 8).flip(1)}, 2)
    assert (found['two'][:, ::2, ::2] == found['one']).all()
    assert (found['one'][0, :, :2] != found['one'][0, :, 2:]).all()


def test_comparison_has_a_column_for_each_network_and_kind(images):
    columns = comparison_columns(images, {'one': features(), 'two': features(4, 8)}, (0, 0, 0), 2)
    assert [title.split('\n') for title, _ in columns] == [
        ['image'],
        ['components', 'one'],
        ['components', 'two'],
        ['similarity', 'one'],
        ['similarity', 'two'],
        ['clusters', 'one'],
        ['clusters', 'two'],
    ]
    assert all(len(panels) == 3 for _, panels in columns)
    one = dict(columns)['similarity\none']
    assert (one[0].image[:, :2].sum(axis=2) > one[0].image[:, 2:].sum(axis=2)).all()


@pytest.mark.parametrize('image, wanted', [(0, [0, 1, 2]), (1, [1, 0, 2]), (2, [2, 0, 1])])
def test_comparison_starts_with_the_image_of_the_patch(report, images, image, wanted, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        sections,
        'sheet_figure',
        lambda rows, *_, **__: drawn.append(rows) or np.zeros((2, 2, 3), dtype=np.uint8),
    )
    sections.add_comparison(report, images, {'one': features()}, (image, 0, 0), 2)
    order = [
        next(i for i, pixels in enumerate(images.pixels) if pixels is row.panels[0].image)
        for row in drawn[0]
    ]
    assert order == wanted
    assert [row.panels[0].draw is not None for row in drawn[0]] == [True, False, False]


def test_many_networks_are_compared_below_each_other(report, images, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        sections,
        'sheet_figure',
        lambda *args, **options: (
            drawn.append((args, options)) or np.zeros((2, 2, 3), dtype=np.uint8)
        ),
    )
    sections.add_comparison(report, images, dict.fromkeys('abc', features()), (0, 0, 0), 2)
    (rows, titles), options = drawn[0]
    assert options == dict(max_columns=4) and len(rows[0].panels) == 12
    assert titles == [
        'image',
        *(f'components\n{name}' for name in 'abc'),
        'image',
        *(f'similarity\n{name}' for name in 'abc'),
        'image',
        *(f'clusters\n{name}' for name in 'abc'),
    ]


@pytest.mark.slow
def test_feature_sections(report, images):
    two = {'one': features(), 'two': features(4, 8)}
    sections.add_components(report, images, two)
    sections.add_similarity(report, images, two, (2, 0, 0), 'a <car>')
    sections.add_clusters(report, images, two, 2)
    sections.add_comparison(report, images, two, (2, 0, 0), 2)
    assert list(report.pictures) == ['pca.png', 'similarity.png', 'clusters.png', 'compare.png']
    assert 'a &lt;car&gt;' in report.sections[1] and 'of image 2' in report.sections[1]
    for name in ('pca', 'similarity'):  # images themselves are in the first row
        assert (picture(report, name) == RED).all(axis=2).any()


@pytest.mark.slow
def test_attention_has_a_row_for_each_head(report, images):
    mask = torch.zeros(3, 2, 4, dtype=torch.bool)
    mask[:, 0] = True
    heads = torch.rand(3, 2, 2, 4)
    sections.add_attention(report, images, 'net', heads, mask)
    sections.add_attention(report, images, 'net', heads[:, :1], mask, 1)
    two, one = picture(report, 'attention'), picture(report, 'attention_1')
    assert two.shape[0] == pytest.approx(one.shape[0] * 5 / 4, rel=0.1)


@pytest.mark.slow
def test_prototypes_and_classes_and_crops(report, images):
    sections.add_prototypes(report, images, 'net', torch.rand(3, 1, 2, 4, 5).softmax(-1))
    generator = torch.Generator().manual_seed(0)
    patches = LabeledPatches(
        torch.randn(30, 5, generator=generator), torch.arange(30) % 3, torch.arange(30) // 15
    )
    plane = project(patches, 'pca')
    sections.add_classes(report, {'net': plane}, ['a', 'b', 'c'], 2, 'pca')
    boxes = torch.tensor([[0.0, 0, 12, 16], [4, 4, 8, 8]])
    crops = [([image[:8, :8], image[:4, :4]], boxes) for image in images.pixels[:2]]
    sections.add_crops(report, images.pixels[:2], crops, 1)
    assert list(report.pictures) == ['prototypes.png', 'classes.png', 'crops.png']


def test_crops_of_images_of_different_shapes_are_one_picture(report, images):
    boxes = torch.tensor([[0.0, 0, 8, 8]])
    shapes = [np.zeros((16, 32, 3), dtype=np.uint8), np.zeros((16, 16, 3), dtype=np.uint8)]
    sections.add_crops(report, shapes, [([image[:8, :8]], boxes) for image in shapes], 1)
    assert (picture(report, 'crops')[-5:, -5:] == 255).all()


def test_titles_are_short_numbered_and_optional(images):
    assert sections.image_titles(images) == ['0: a', '1: b', '2: c']
    long = ImageSet(['aachen_000000_000019_leftImg8bit'], images.pixels[:1])
    assert sections.image_titles(long) == ['0: …_000019_leftImg8bit']
    assert sections.image_titles(ImageSet([''], images.pixels[:1])) == []
