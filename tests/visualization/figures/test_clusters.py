from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from cotap_mm.visualization import cluster_overlay, joint_clusters, match_clusters
from cotap_mm.visualization.figures.clusters import distinct_colors, draw_borders


def directions(labels, noise=0.05):
    """Features (B, 3, h, w) near the axis of each label, with random lengths."""
    torch.manual_seed(0)
    axes = torch.eye(3)[torch.as_tensor(labels)] + noise * torch.randn(*labels.shape, 3)
    return (axes * torch.rand(*labels.shape, 1).add(0.1)).permute(0, 3, 1, 2)


LABELS = np.zeros((2, 5, 6), dtype=int)
LABELS[:, :, 4:], LABELS[1, 3:] = 1, 2  # areas 32, 16 and 12


def test_finds_directions_in_all_images_together():
    found = joint_clusters(directions(LABELS), 3)
    assert (found == LABELS).all()  # numbered by size, as here
    assert (joint_clusters(directions(LABELS), 3) == found).all()


def test_number_of_clusters_is_checked():
    for count in (1, 61):
        with pytest.raises(ValueError, match=rf'in 2..60 \(the patches\), got {count}'):
            joint_clusters(directions(LABELS), count)


def test_matching_undoes_a_renumbering():
    renamed = np.array([2, 0, 1])[LABELS]
    assert (match_clusters(renamed, LABELS) == LABELS).all()


def test_matching_across_grids_is_one_to_one():
    fine = LABELS.repeat(2, axis=1).repeat(2, axis=2)
    assert (match_clusters(np.array([1, 2, 0])[fine], LABELS) == fine).all()
    split = LABELS.copy()
    split[0, 0] = 3  # overlaps 0 and 1, but both numbers are taken
    assert set(np.unique(match_clusters(split, LABELS))) == {0, 1, 2, 3}


def test_overlay_keeps_the_brightness_of_the_image():
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[:2] = 200
    found = cluster_overlay(image, np.array([[0, 1]]), strength=0.5)
    assert found[0, 0].tolist() == [100, 157, 189] and found[3, 0].tolist() == [0, 57, 89]
    assert found[0, 3].tolist() == [215, 179, 100]


def test_borders_and_numbers():
    axes = Figure().subplots()
    clusters = np.array([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [2, 0, 0, 0]])
    draw_borders(axes, clusters, (40, 80), smallest=0.1)
    segments = axes.collections[0].get_segments()
    assert len(segments) == 3 + 2  # two sides of the strip, its end; two sides of the corner
    found = {tuple(map(tuple, segment)) for segment in segments}
    assert ((59.5, -0.5), (59.5, 9.5)) in found and ((59.5, 19.5), (79.5, 19.5)) in found
    assert [text.get_text() for text in axes.texts] == ['0', '1']  # 2 is too small


def test_number_is_inside_its_region_even_if_that_is_hollow():
    axes = Figure().subplots()
    clusters = np.zeros((9, 9), dtype=int)
    clusters[2:7, 2:7] = 1  # the center of cluster 0 is not in cluster 0
    draw_borders(axes, clusters, (90, 90))
    for text in axes.texts:
        x, y = text.get_position()
        assert clusters[int(y / 10), int(x / 10)] == int(text.get_text())


# Linear RGB as seen without red, green or blue cones.
# Source: Machado et al., https://doi.org/10.1109/TVCG.2009.113, Table 1, severity 1.
SIGHT = dict(
    normal=np.eye(3),
    protanopia=[
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    deuteranopia=[
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    tritanopia=[
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
)


def cie_lab(color, sight):
    share = np.array(color) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = (np.array(sight) @ linear).clip(0, 1)
    xyz = (
        np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        @ seen
    )
    x, y, z = (
        np.cbrt(part) if part > 0.008856 else 7.787 * part + 16 / 116
        for part in xyz / [0.9505, 1, 1.089]
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize('sight', SIGHT)
def test_first_colors_are_told_apart_by_the_color_blind(sight):
    seen = [cie_lab(color, SIGHT[sight]) for color in distinct_colors(8)]
    # 2.3 is the just noticeable difference; green and sky blue are 16 apart at worst.
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 15


def test_colors_differ():
    colors = distinct_colors(24)
    assert len(set(colors)) == 24
    assert all(0 <= part <= 255 for color in colors for part in color)
