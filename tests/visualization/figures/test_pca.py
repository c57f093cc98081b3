from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from cotap_mm.visualization import pca_maps
from cotap_mm.visualization.figures.pca import basis_note, shared_pca_maps


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


def colors(maps):
    return np.stack(maps).astype(float)


def structured(channels, grid=(6, 8), seed=0):
    """Three directions of different strength in ``channels`` dimensions, the same for all grids."""
    rows, columns = (torch.linspace(-1, 1, side) for side in grid)
    y, x = torch.meshgrid(rows, columns, indexing='ij')
    parts = torch.stack([2 * x, 1.2 * y, 0.7 * x * y, torch.full_like(x, 3)])  # (4, h, w)
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(channels, 4, generator=generator))[0]
    return torch.einsum('cp,phw->chw', axes, parts)[None]


def test_one_network_is_the_plain_pca():
    patches = torch.randn(2, 6, 5, 5)
    assert (colors(shared_pca_maps({'a': patches})['a']) == colors(pca_maps(patches))).all()


def test_equal_features_have_equal_colors_in_all_networks():
    first, second = structured(10), structured(10, seed=1)
    found = shared_pca_maps({'a': first, 'b': second, 'again': first})
    assert (colors(found['a']) == colors(found['again'])).all()
    assert (colors(found['a']) != colors(found['b'])).any()
    # Features of another scale or with an offset are the same features.
    scaled = shared_pca_maps({'a': first, 'b': 7 * first})
    assert (colors(scaled['a']) == colors(scaled['b'])).all()


def test_networks_of_other_widths_and_grids_are_rotated_to_the_first():
    found = shared_pca_maps({'a': structured(10), 'b': structured(24, (12, 16), seed=3)})
    small = colors(found['b']).reshape(1, 6, 2, 8, 2, 3).mean(axis=(2, 4))
    for channel in range(3):
        one, other = colors(found['a'])[..., channel].ravel(), small[..., channel].ravel()
        assert np.corrcoef(one, other)[0, 1] > 0.95


def test_note_tells_what_can_be_compared():
    assert basis_note({'a': 10}) == ''
    assert basis_note({'a': 10, 'b\nfilter': 10}).startswith('a, b filter share one basis (10 ')
    assert basis_note({'a,\nb': 10, 'c,\nb': 10}).startswith('a b, c b share one basis')
    both = basis_note({'a': 10, 'b': 10, 'c': 20})
    assert 'a, b share' in both and 'c (20 channels) cannot share the basis of a (10 ' in both
    with pytest.raises(ValueError, match='C >= 3'):
        shared_pca_maps({'a': torch.randn(1, 4, 3, 3), 'b': torch.randn(1, 2, 3, 3)})
