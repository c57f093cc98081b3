from __future__ import annotations

import numpy as np
import pytest
import torch

from cotap_mm.visualization import class_scatter, labeled_patches, project
from cotap_mm.visualization.figures.projection import LabeledPatches, Plane, join


def three_classes(num_images=4, per_class=15, width=8, gap=4.0):
    """Classes whose means are ``gap`` apart in the first two channels; the third is noise."""
    generator = torch.Generator().manual_seed(0)
    means = torch.zeros(3, width)
    means[1, 0], means[2, 1] = gap, gap
    parts = []
    for image in range(num_images):
        classes = torch.arange(3).repeat_interleave(per_class)
        noise = torch.randn(len(classes), width, generator=generator) * 0.5
        noise[:, 2] += 5 + 3 * torch.randn(len(classes), generator=generator)
        parts.append(
            LabeledPatches(means[classes] + noise, classes, torch.full_like(classes, image))
        )
    return join(parts)


def spread_ratio(plane):
    means = np.stack([plane.points[plane.classes == kind].mean(axis=0) for kind in range(3)])
    within = np.mean([plane.points[plane.classes == kind].std(axis=0) for kind in range(3)])
    return np.ptp(means, axis=0).max() / within


def test_patches_have_their_dominant_class():
    label = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [2, 0, 255, 255], [2, 0, 255, 2]])
    patches = torch.arange(8.0).reshape(1, 2, 2, 2)
    found = labeled_patches(patches, label, 3, image=5)
    # Top left is 0 by three of four, top right 1; bottom left is a tie, bottom right 2.
    assert found.classes.tolist() == [0, 1, 2] and found.images.tolist() == [5, 5, 5]
    assert found.features.tolist() == [[0, 4], [1, 5], [3, 7]]


def test_number_of_patches_per_class_is_limited():
    label = torch.zeros(6, 6, dtype=torch.long)
    label[0] = 1
    patches = torch.randn(1, 4, 6, 6)
    found = labeled_patches(patches, label, 2, per_class=7)
    assert found.classes.tolist() == [0] * 7 + [1] * 6
    again = labeled_patches(patches, label, 2, per_class=7)
    assert torch.equal(found.features, again.features)


def test_discriminants_separate_held_out_classes():
    patches = three_classes()
    lda, pca = project(patches, 'lda'), project(patches, 'pca')
    assert len(lda.points) == len(patches.classes) // 2  # the second half
    assert len(pca.points) == len(patches.classes)
    assert spread_ratio(lda) > 3 and spread_ratio(lda) > 1.5 * spread_ratio(pca)
    shares = [int(title.split('(')[1].split(' ')[0]) for title in lda.axis_titles]
    assert 99 <= sum(shares) <= 101 and shares[0] >= shares[1]  # 3 classes span a plane


def test_discriminants_do_not_separate_noise():
    patches = three_classes(gap=0.0, width=60)
    assert spread_ratio(project(patches, 'lda')) < 1


def test_invalid_input_is_rejected():
    with pytest.raises(ValueError, match="lda, pca, got 'tsne'"):
        project(three_classes(), 'tsne')
    with pytest.raises(ValueError, match="got 1 images and 3 classes; use 'pca'"):
        project(three_classes(num_images=1), 'lda')
    two = three_classes()
    with pytest.raises(ValueError, match='got 4 images and 2 classes'):
        project(LabeledPatches(two.features, two.classes.clamp(max=1), two.images), 'lda')
    with pytest.raises(ValueError, match='at least one network'):
        class_scatter({}, ['a'])


def test_scatter_shows_the_color_of_each_class():
    classes = np.array([0, 0, 2, 2])
    plane = Plane(np.array([[0.0, 0], [0, 1], [3, 0], [3, 1]]), classes, ('x (60 %)', 'y (40 %)'))
    one = class_scatter({'net': plane}, ['sky', 'road', 'car'])
    four = class_scatter({str(i): plane for i in range(4)}, ['sky', 'road', 'car'])
    assert one.dtype == np.uint8 and four.shape[0] > 1.5 * one.shape[0]
    assert four.shape[1] > 1.5 * one.shape[1]
    for color, present in (((0, 114, 178), True), ((230, 159, 0), False), ((0, 158, 115), True)):
        assert (one == color).all(axis=2).any() == present
