from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from cotap_mm.visualization import pca_maps


def test_first_component_is_sklearns():
    patches = torch.randn(2, 6, 5, 5) * torch.tensor([4.0, 2, 1, 1, 1, 1]).view(6, 1, 1)
    rows = patches.permute(0, 2, 3, 1).reshape(-1, 6).numpy()
    wanted = PCA(3).fit_transform(rows)
    found = np.stack(pca_maps(patches)).reshape(-1, 3).astype(float)
    for channel in range(3):
        inside = (found[:, channel] > 0) & (found[:, channel] < 255)  # not cut off
        correlation = np.corrcoef(found[inside, channel], wanted[inside, channel])[0, 1]
        assert abs(correlation) > 0.999


def test_pca_is_joint_and_repeats():
    image = torch.randn(4, 6, 6)
    first, second = pca_maps(torch.stack([image, image]))
    assert (first == second).all()
    assert (pca_maps(torch.stack([image, image]))[0] == first).all()


def test_pca_size_and_foreground():
    patches, foreground = torch.randn(1, 4, 3, 3), torch.ones(1, 3, 3, dtype=torch.bool)
    foreground[0, 0, 0] = False
    found = pca_maps(patches, size=(12, 9), foreground=foreground)[0]
    assert found.shape == (12, 9, 3) and (found[:4, :3] == 0).all() and found[4:].any()
    with pytest.raises(ValueError, match='at least 3 patches'):
        pca_maps(patches, foreground=torch.zeros(1, 3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match='C >= 3'):
        pca_maps(torch.randn(1, 2, 3, 3))


def test_constant_features_do_not_break():
    assert pca_maps(torch.ones(1, 4, 3, 3))[0].shape == (3, 3, 3)
