"""Functions of the viewer's page, called as Gradio calls them."""

from __future__ import annotations

import base64
from types import SimpleNamespace

import pytest

from cotap_mm.visualization.viewer.links import FigureCommand
from cotap_mm.visualization.viewer.render import FeatureBrowser
from cotap_mm.visualization.viewer.sheet import LABEL, NARROW, PICTURE, Point
from tests.helpers.pixel_scenes import PixelEncoder

from .test_render import Photos

NETWORKS = ['pixels', 'same']


@pytest.fixture(scope='module')
def functions():
    """Python functions of the page by name."""
    pytest.importorskip('gradio', reason='the viewer needs gradio')
    from cotap_mm.visualization.viewer.app import build_page

    encoders = dict(pixels=PixelEncoder(), same=PixelEncoder())
    browser = FeatureBrowser(encoders, Photos(), (32, 32))
    command = FigureCommand(
        {'pixels': '/private/a.pth', 'same': '/private/b.pth'},
        '/private/photos',
        (32, 32),
        {'pixels': (8, 8), 'same': (8, 8)},
    )
    page = build_page(browser, [0, 1], 'title', command)
    return {function.api_name: function.fn for function in page.fns.values() if function.fn}


def error_of(call, *args):
    import gradio

    with pytest.raises(gradio.Error) as error:
        call(*args)
    return error.value.message


def test_go_restores_everything(functions):
    link = 'mode=clusters&clusters=3&on=1&row=2&column=7&grid=8x8&image=folder/2.png'
    sheet, note, seen, written, line, chosen, mode, number, count, networks = functions['go'](
        f'image=folder/0.png&{link}'
    )
    assert networks == NETWORKS
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
    drawn, _ = functions['draw']([0, 1], 'components', 0, 8, NETWORKS, seen)
    assert drawn.shape == sheet.shape


def test_rows_can_be_hidden(functions):
    seen, controls = (Point(0, 0.5, 0.5), False), ([0, 1], 'similarity', 0, 8)
    both, _ = functions['draw'](*controls, NETWORKS, seen)
    one, _ = functions['draw'](*controls, ['same'], seen)
    assert (both.shape[0], one.shape[0]) == (3 * PICTURE + 16, 2 * PICTURE + 8)
    link, line = functions['describe'](*controls, ['same'], seen)
    assert link.endswith('&network=same') and 'same=b.pth' in line and 'a.pth' not in line
    drawn = functions['go'](link)
    assert (drawn[0] == one).all() and drawn[-1] == ['same'] and drawn[3] == link
    click = SimpleNamespace(_data=dict(index=[LABEL + 5, 2 * PICTURE + 20]))  # below the second row
    assert functions['click'](*controls, ['same'], seen, click)[2].point == seen[0]
    assert functions['click'](*controls, NETWORKS, seen, click)[2].point != seen[0]
    assert 'at least one network' in error_of(functions['draw'], *controls, [], seen)
    assert 'not among the networks: pixels, same' in error_of(functions['go'], 'network=other')
    assert 'not among the networks' in error_of(functions['draw'], *controls, [['same']], seen)


def test_bad_links_and_values_are_explained(functions):
    assert 'nothing.png, which is not among' in error_of(functions['go'], 'image=nothing.png')
    assert 'mode must be one of' in error_of(functions['go'], 'mode=umap')
    assert '2 to 24 clusters' in error_of(functions['go'], 'mode=clusters&clusters=99')
    assert 'expected a list' in error_of(
        functions['describe'], None, 'norms', 0, 8, NETWORKS, (Point(0, 0, 0), False)
    )
    assert functions['go'](None)[6] == 'similarity'  # not a text


@pytest.mark.parametrize('kind, start', [('png', b'\x89PNG'), ('svg', b'<?xml')])
def test_saved_figures_are_embedded_without_paths(functions, kind, start):
    view = ([0, 1], 'norms', 0, 8, NETWORKS, (Point(1, 0.5, 0.5), False))
    file = functions[f'save_{kind}'](*view)
    data = base64.b64decode(file.url.split(',', 1)[1])
    assert file.path is None and file.orig_name == f'norms.{kind}'
    assert data.startswith(start) and b'private' not in data and b'a.pth' in data
