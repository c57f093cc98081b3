from __future__ import annotations

import numpy as np
import pytest
import torch

from cotap_mm.datasets.sources.files import BadImage
from cotap_mm.evaluation import CoTAPEncoder
from cotap_mm.visualization.errors import NotAvailable
from cotap_mm.visualization.figures.canvas import colorize
from cotap_mm.visualization.figures.norms import MARK
from cotap_mm.visualization.viewer.lru_cache import MemoryLRU
from cotap_mm.visualization.viewer.render import FeatureBrowser
from cotap_mm.visualization.viewer.sheet import (
    GAP,
    HEAD,
    LABEL,
    NARROW,
    PICTURE,
    Point,
    wrap_name,
)
from tests.helpers.pixel_scenes import PixelEncoder
from tests.helpers.tiny import build_tiny


class Photos:
    """Images with one color in each quarter; records which ones are read."""

    def __init__(self, count=3, side=32):
        rng = np.random.RandomState(0)
        quarters = rng.randint(0, 256, (count, 2, 2, 3), dtype=np.uint8)
        self.pixels = quarters.repeat(side // 2, axis=1).repeat(side // 2, axis=2)
        self.reads = []

    def __len__(self):
        return len(self.pixels)

    def name(self, index):
        return f'folder/{index}.png'

    def read(self, index, enough=None):
        self.reads.append(index)
        return self.pixels[index]


def browser(**encoders):
    return FeatureBrowser(encoders or dict(pixels=PixelEncoder()), Photos(), (32, 32))


def picture(sheet, row, column):
    """Return the pixels of one picture of a sheet."""
    top, left = row * (PICTURE + GAP), LABEL + column * (PICTURE + GAP)
    return sheet[top : top + PICTURE, left : left + PICTURE]


def test_similarity_of_the_clicked_patch():
    viewer = browser()
    point = Point(1, 0.8, 0.2)  # top right quarter of the second image
    drawing = viewer.draw([0, 2], 'similarity', point)
    maps = torch.stack([PixelEncoder().encode(viewer.source.pixels[i]).patches[0] for i in (0, 2)])
    maps = torch.nn.functional.normalize(maps, dim=1)
    cosine = torch.einsum('c,bchw->bhw', maps[1, :, 1, 6], maps).numpy()
    low = cosine.min()
    assert (
        drawing.sheet.shape == np.array([2 * PICTURE + GAP, LABEL + 2 * PICTURE + GAP, 3])
    ).all()
    for column, values in enumerate(cosine):
        colors = colorize(values, low, 1)
        shown = picture(drawing.sheet, 1, column)
        for row, place in ((0, 0), (6, 2), (4, 7)):
            y, x = (int((each + 0.5) * PICTURE / 8) for each in (row, place))
            assert shown[y, x].tolist() == colors[row, place].tolist()
    # The clicked patch is framed, and has the brightest color.
    y, x = (int((each + 0.5) * PICTURE / 8) for each in (1, 6))
    assert (
        picture(drawing.sheet, 1, 1)[y, x].tolist()
        == colorize(np.ones((1, 1)), 0, 1)[0, 0].tolist()
    )
    frame = picture(drawing.sheet, 0, 1)[int(PICTURE / 8) - 1 : int(2 * PICTURE / 8) + 2]
    assert (frame == 255).all(axis=2).any() and (frame == 0).all(axis=2).any()


def test_position_on_the_sheet_maps_to_the_patch_under_it():
    viewer = browser()
    for row in (0, 1):  # photograph and map
        point = viewer.locate(
            LABEL + PICTURE + GAP + 0.9 * PICTURE, row * (PICTURE + GAP) + 0.3 * PICTURE, 2
        )
        assert point.slot == 1 and point.patch((8, 8)) == (2, 7)
    assert viewer.locate(10, 10, 2) is None  # on a label
    assert viewer.locate(LABEL + PICTURE + 2, 10, 2) is None  # between pictures
    assert viewer.locate(LABEL + 2 * (PICTURE + GAP) + 5, 10, 2) is None  # not shown
    assert Point(0, 1.0, 1.0).patch((4, 5)) == (3, 4)


def test_everything_is_computed_once():
    calls = []
    encoder = PixelEncoder(lambda x: calls.append(len(x)) or x)
    viewer = browser(pixels=encoder)
    viewer.draw([0, 1], 'similarity', Point(0, 0.5, 0.5))
    viewer.draw([0, 1], 'components', Point(1, 0.1, 0.5))
    viewer.draw([0, 1, 2], 'similarity', Point(2, 0.1, 0.1))
    assert calls == [2, 1] and sorted(viewer.source.reads) == [0, 1, 2]


def test_every_mode_of_a_network_with_filter():
    torch.manual_seed(0)
    model = build_tiny()
    viewer = browser(ours=CoTAPEncoder(model), plain=CoTAPEncoder(model, output='backbone'))
    assert viewer.num_prototypes() == 2
    sheets = [viewer.draw([0, 1], mode, Point(0, 0.5, 0.5), 1, 3) for mode in viewer.modes]
    assert len({each.sheet.tobytes() for each in sheets}) == len(sheets) == 8
    assert len({each.note for each in sheets}) == 8
    with pytest.raises(ValueError, match=r'prototypes 0..1, got 2'):
        viewer.draw([0], 'prototypes', Point(0, 0.5, 0.5), 2)


def test_upright_sheet_and_figure_of_every_mode():
    torch.manual_seed(0)
    model = build_tiny()
    viewer = browser(ours=CoTAPEncoder(model), plain=CoTAPEncoder(model, output='backbone'))
    for mode in viewer.modes:
        drawing = viewer.draw([0, 1, 2], mode, Point(0, 0.5, 0.5), 1, 3, upright=True)
        assert drawing.sheet.shape[1] == pytest.approx(NARROW, abs=4)
        figure = viewer.figure([0, 1, 2], mode, Point(2, 0.5, 0.5), 1, 3)
        titles = [axes.get_title() for axes in figure.axes]
        assert '0: folder/0.png' in titles and '2: folder/2.png' in titles
        framed = [axes.get_title() for axes in figure.axes if axes.patches and axes.get_title()]
        assert framed[:1] == ['2: folder/2.png'] or mode == 'norms'
    point = viewer.locate(10, HEAD + 5, 3, upright=True)
    assert point.slot == 0 and point.patch((4, 4)) == (0, 0)


def test_components_share_a_basis_if_the_widths_are_equal():
    model = build_tiny()
    point = Point(0, 0.5, 0.5)
    same = browser(one=CoTAPEncoder(model), other=CoTAPEncoder(model)).draw(
        [0, 1], 'components', point
    )
    assert 'one, other share one basis (32 channels)' in same.note
    assert (picture(same.sheet, 1, 1) == picture(same.sheet, 2, 1)).all()
    mixed = browser(one=CoTAPEncoder(model), plain=CoTAPEncoder(model, output='backbone'))
    note = mixed.draw([0, 1], 'components', point).note
    assert 'plain (16 channels) cannot share the basis of one (32 channels)' in note


def test_assignments_are_listed_in_a_legend():
    viewer = browser(ours=CoTAPEncoder(build_tiny()))
    plain = viewer.draw([0, 1], 'prototypes', Point(0, 0.5, 0.5)).sheet
    found = viewer.draw([0, 1], 'assignments', Point(0, 0.5, 0.5))
    assert found.sheet.shape[0] > plain.shape[0]  # the legend
    assert 'of 2 prototypes are in effective use' in found.note


def test_norm_outliers_are_marked_and_counted():
    def spike(images):
        images = images.clone()
        images[0, :, 0, 0] = 40  # one patch of the first image
        return images

    viewer = browser(pixels=PixelEncoder(spike))
    found = viewer.draw([0, 1], 'norms', Point(1, 0.5, 0.5))
    assert '1 outlier (' in found.note
    marked = (picture(found.sheet, 1, 0) == MARK).all(axis=2)
    assert marked[:40, :40].sum() > 100 and not marked[45:, 45:].any()
    assert not (picture(found.sheet, 1, 1) == MARK).all(axis=2).any()


def test_clusters_of_two_rows_share_numbers():
    model = build_tiny()
    viewer = browser(one=CoTAPEncoder(model), same=CoTAPEncoder(model))
    sheet = viewer.draw([0, 1], 'clusters', Point(1, 0.9, 0.9), count=3).sheet
    assert (picture(sheet, 1, 0) == picture(sheet, 2, 0)).all()


def test_unsupported_modes_are_rejected():
    viewer = browser()
    assert viewer.num_prototypes() == 0
    with pytest.raises(ValueError, match='pixels: PixelEncoder has no object-aware filter'):
        viewer.draw([0], 'prototypes', Point(0, 0, 0))
    with pytest.raises(
        ValueError, match='PixelEncoder does not provide the attention of a CLS token'
    ):
        viewer.draw([0], 'attention', Point(0, 0, 0))
    with pytest.raises(ValueError, match='at least one image'):
        viewer.draw([], 'similarity', Point(0, 0, 0))
    with pytest.raises(ValueError, match='one of similarity, components'):
        viewer.draw([0], 'umap', Point(0, 0, 0))


def test_networks_that_do_not_support_a_mode_are_skipped():
    torch.manual_seed(0)
    ours = CoTAPEncoder(build_tiny())
    both = browser(plain=PixelEncoder(), ours=ours)
    alone = browser(ours=ours)
    for mode in ('prototypes', 'attention', 'foreground'):
        found, wanted = (each.draw([0, 1], mode, Point(5, 0, 0)) for each in (both, alone))
        assert 'Skipped plain: PixelEncoder ' in found.note and 'plain' not in wanted.note
        assert found.sheet.shape == wanted.sheet.shape
        assert (picture(found.sheet, 1, 0) == picture(wanted.sheet, 1, 0)).all()
    assert both.draw([0], 'similarity', Point(0, 0, 0)).sheet.shape[0] == 3 * PICTURE + 2 * GAP


def test_some_networks_are_drawn_as_if_they_were_all():
    torch.manual_seed(0)
    other, ours = CoTAPEncoder(build_tiny()), CoTAPEncoder(build_tiny())
    both, alone = browser(other=other, ours=ours), browser(ours=ours)
    for mode in both.modes:
        arguments = ([0, 1], mode, Point(0, 0.5, 0.5), 1, 3, False)
        both.draw(*arguments)  # features that are cached do not depend on the other networks
        found, wanted = both.draw(*arguments, ['ours']), alone.draw(*arguments)
        assert (found.sheet == wanted.sheet).all() and found.note == wanted.note
    with pytest.raises(NotAvailable, match='plain is not among the networks: other, ours'):
        both.draw(*arguments, ['plain'])


def test_point_in_a_removed_image_moves_to_the_last_image():
    viewer = browser()
    assert viewer.draw([1], 'similarity', Point(3, 0.5, 0.5)).sheet.shape[1] == LABEL + PICTURE


def test_bounds():
    viewer = browser()
    for wrong, message in (
        (dict(chosen=[0] * 25), 'at most 24 images, got 25'),
        (dict(chosen=[3]), r'images must be in 0\.\.2, got \[3\]'),
        (dict(chosen=[-1]), 'images must be in 0'),
        (dict(count=1), '2 to 24 clusters'),
        (dict(count=25), '2 to 24 clusters'),
        (dict(number=-1), 'a prototype from 0 on'),
    ):
        with pytest.raises(NotAvailable, match=message):
            viewer.draw(**{**dict(chosen=[0], mode='similarity', point=Point(0, 0, 0)), **wrong})


def test_unreadable_image_is_reported_without_its_path():
    viewer = browser()

    def fail(index, enough=None):
        raise BadImage('/private/folder/1.png: truncated')

    viewer.draw([0], 'similarity', Point(0, 0, 0))
    viewer.source.read = fail
    with pytest.raises(NotAvailable, match='^folder/1.png cannot be read: it is damaged'):
        viewer.draw([0, 1], 'similarity', Point(0, 0, 0))
    assert viewer.is_readable(0) and not viewer.is_readable(1)
    viewer.draw([0], 'similarity', Point(0, 0, 0))


def test_small_cache_does_not_change_drawings():
    small = FeatureBrowser(dict(pixels=PixelEncoder()), Photos(), (32, 32), most_bytes=1)
    large = browser()
    for mode in ('similarity', 'components', 'clusters'):
        sheets = [
            each.draw([2, 0, 1], mode, Point(1, 0.5, 0.5), count=3).sheet for each in (small, large)
        ]
        assert (sheets[0] == sheets[1]).all()
    assert small._cache.bytes < large._cache.bytes


def test_frame_does_not_cover_the_patch():
    viewer = FeatureBrowser(dict(pixels=PixelEncoder()), Photos(side=32), (32, 32))
    sheet = viewer.draw([0], 'similarity', Point(0, 0.5, 0.5)).sheet
    middle = int(4.5 * PICTURE / 8)
    patch = picture(sheet, 1, 0)[middle - 15 : middle + 15, middle - 15 : middle + 15]
    assert (patch == patch[0, 0]).all()


def test_least_recently_used_values_are_dropped():
    kept = MemoryLRU(100)
    for name in 'abc':
        kept[name] = np.zeros(40, np.uint8)
    assert list(map(kept.__contains__, 'abc')) == [False, True, True] and kept.bytes == 80
    assert len(kept['b']) == 40
    kept['d'] = torch.zeros(10)
    assert list(map(kept.__contains__, 'bcd')) == [True, False, True] and kept.bytes == 80
    kept['b'] = [np.zeros(5, np.uint8)] * 2
    assert kept.bytes == 50 and len(kept) == 2
    kept['large'] = np.zeros(1000)
    assert len(kept) == 1 and kept.bytes == 8000
    calls = []
    for _ in range(2):
        assert kept.once('once', lambda: calls.append(1) or np.zeros(3)).shape == (3,)
    assert len(calls) == 1
    with pytest.raises(ValueError, match='must be positive, got 0'):
        MemoryLRU(0)


def test_long_names_arewrap_name():
    assert wrap_name('random weights of a very long name') == [
        'random weights',
        'of a very long',
        'name',
    ]
    assert wrap_name('x' * 40) == ['x' * 16, 'x' * 16, 'x' * 8]
