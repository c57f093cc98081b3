"""Functions of the viewer's page, called as Gradio calls them."""

from __future__ import annotations

import base64

import pytest

from cotap_mm.visualization.viewer.links import FigureCommand
from cotap_mm.visualization.viewer.render import FeatureBrowser
from cotap_mm.visualization.viewer.sheet import LABEL, NARROW, PICTURE, Point
from tests.helpers.pixel_scenes import PixelEncoder

from .test_render import Photos


@pytest.fixture(scope='module')
def functions():
    """Python functions of the page by name."""
    pytest.importorskip('gradio', reason='the viewer needs gradio')
    from cotap_mm.visualization.viewer.app import build_page

    browser = FeatureBrowser(dict(pixels=PixelEncoder()), Photos(), (32, 32))
    command = FigureCommand({'pixels': '/private/a.pth'}, '/private/photos', (32, 32), (8, 8))
    page = build_page(browser, [0, 1], 'title', command)
    return {function.api_name: function.fn for function in page.fns.values() if function.fn}


def error_of(call, *args):
    import gradio

    with pytest.raises(gradio.Error) as error:
        call(*args)
    return error.value.message


def test_go_restores_everything(functions):
    link = 'mode=clusters&clusters=3&on=1&row=2&column=7&grid=8x8&image=folder/2.png'
    sheet, note, seen, written, line, chosen, mode, number, count = functions['go'](
        f'image=folder/0.png&{link}'
    )
    assert sheet.shape[1] == LABEL + 2 * PICTURE + 8 and '3 clusters' in note
    assert (chosen, mode) == ([0, 2], 'clusters')
    assert seen.point.slot == 1 and seen.point.patch((8, 8)) == (2, 7) and not seen.upright
    assert (count['value'], count['visible'], number['visible']) == (3, True, False)
    assert 'on=1&row=2&column=7' in written and '--patch 1 2 7 --clusters 3' in line
    again = functions['go'](written)
    assert again[3] == written and (again[0] == sheet).all()


def test_layout_of_narrow_screens_is_kept_for_the_session(functions):
    sheet, _, seen, *_ = functions['go']('narrow=1')
    assert sheet.shape[1] == pytest.approx(NARROW, abs=4) and seen.upright
    drawn, _ = functions['draw']([0, 1], 'components', 0, 8, seen)
    assert drawn.shape == sheet.shape


def test_bad_links_and_values_are_explained(functions):
    assert 'nothing.png, which is not among' in error_of(functions['go'], 'image=nothing.png')
    assert 'mode must be one of' in error_of(functions['go'], 'mode=umap')
    assert '2 to 24 clusters' in error_of(functions['go'], 'mode=clusters&clusters=99')
    assert 'expected a list' in error_of(
        functions['describe'], None, 'norms', 0, 8, (Point(0, 0, 0), False)
    )
    assert functions['go'](None)[6] == 'similarity'  # not a text


@pytest.mark.parametrize('kind, start', [('png', b'\x89PNG'), ('svg', b'<?xml')])
def test_saved_figures_are_embedded_without_paths(functions, kind, start):
    file = functions[f'save_{kind}']([0, 1], 'norms', 0, 8, (Point(1, 0.5, 0.5), False))
    data = base64.b64decode(file.url.split(',', 1)[1])
    assert file.path is None and file.orig_name == f'norms.{kind}'
    assert data.startswith(start) and b'private' not in data and b'a.pth' in data
