"""The viewer in a real browser."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from cotap_mm.visualization.viewer.sheet import GAP, LABEL, PICTURE
from tests.helpers.tool_loading import load_tool
from tests.helpers.viewer_process import free_port

from .conftest import sheet, wait_for_another


@pytest.mark.slow
def test_user_errors_are_one_line(folder, monkeypatch):
    pytest.importorskip('gradio')
    monkeypatch.delenv('COTAP_TRACEBACK', raising=False)
    viewer = load_tool('viewer')

    def error_of(images, *arguments):
        """Return the error message of a viewer that cannot start."""
        with pytest.raises(SystemExit) as end:
            viewer.main(
                [
                    str(folder / 'iter_1.pth'),
                    '--images',
                    str(folder / images),
                    '--device',
                    'cpu',
                    '--port',
                    *map(str, arguments),
                ]
            )
        return str(end.value)

    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f'cannot serve on 127.0.0.1:{port}' in error_of('images', port)
    for name in ('empty', 'damaged'):
        (folder / name).mkdir()
    (folder / 'damaged/a.jpg').write_bytes(b'no image')
    port = free_port()
    assert 'contains no images' in error_of('empty', port)
    assert 'none of the first 1 images can be read' in error_of('damaged', port)
    assert 'none of the 1 images can be read' in error_of('damaged', port, '--size', 32, 32)


def picture(pixels, row, column):
    top, left = row * (PICTURE + GAP), LABEL + column * (PICTURE + GAP)
    return pixels[top : top + PICTURE, left : left + PICTURE]


@pytest.mark.slow
def test_click_shows_the_similarity_to_that_patch(page):
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    address, before = sheet(page)
    assert before.shape == (3 * PICTURE + 2 * GAP, LABEL + 2 * PICTURE + GAP, 3)
    box = page.execute_script(
        "const b = document.querySelector('#sheet img')"
        '.getBoundingClientRect(); return [b.left, b.top, b.width]'
    )
    scale = box[2] / before.shape[1]
    # The patch in row 0, column 3 of the second photograph.
    x = LABEL + PICTURE + GAP + 0.875 * PICTURE
    y = 0.125 * PICTURE

    def click():
        # Where in the window: offsets from an element start at the center of its visible part.
        action = ActionBuilder(page)
        action.pointer_action.move_to_location(int(box[0] + x * scale), int(box[1] + y * scale))
        action.pointer_action.click()
        action.perform()

    _, after = wait_for_another(page, address, click)
    yellow = np.array([253, 231, 37])  # viridis at 1
    for row in (1, 2):  # both networks
        shown = picture(after, row, 1)
        assert np.abs(shown[int(y), int(0.875 * PICTURE)].astype(int) - yellow).max() <= 2
        assert (shown != picture(before, row, 1)).any()
    photo = picture(after, 0, 1)
    corner = photo[: int(0.3 * PICTURE), int(0.7 * PICTURE) :]
    assert (corner == 255).all(axis=2).sum() > 100  # the frame


@pytest.mark.slow
def test_other_modes_and_no_external_resources(page):
    address, _ = sheet(page)
    seen = set()
    for mode in ('components', 'clusters', 'prototypes', 'attention'):
        button = page.find_element('css selector', f'#mode input[value="{mode}"]')
        address, pixels = wait_for_another(page, address, button.click)
        seen.add(pixels.tobytes())
    assert len(seen) == 4
    hosts = page.execute_script(
        "return performance.getEntriesByType('resource').map(e => new URL(e.name).hostname)"
    )
    assert set(hosts) <= {'127.0.0.1', ''}
