"""The viewer in a real browser."""

from __future__ import annotations

import shutil
import socket
import time

import numpy as np
import pytest

from cotap_mm.visualization.viewer.sheet import GAP, LABEL, PICTURE
from tests.helpers.tiny import write_checkpoint
from tests.helpers.tool_loading import load_tool
from tests.helpers.viewer_process import free_port, running, write_images


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A tiny checkpoint and three images."""
    folder = tmp_path_factory.mktemp('viewer')
    write_checkpoint(folder / 'iter_1.pth')
    write_images(folder / 'images')
    return folder


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


@pytest.fixture(scope='module')
def page(folder):
    """A headless Chromium at the viewer's page."""
    pytest.importorskip('gradio', reason='the viewer needs gradio')
    webdriver = pytest.importorskip('selenium.webdriver', reason='selenium drives the browser')
    browser, driver = shutil.which('chromium'), shutil.which('chromedriver')
    if not browser or not driver:
        pytest.skip(
            'chromium and chromedriver are not installed (apt-get install chromium chromium-driver)'
        )
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in (
        '--headless=new',
        '--no-sandbox',
        '--disable-dev-shm-usage',
        '--disable-gpu',
        '--window-size=1200,1100',
    ):
        options.add_argument(option)
    with running(
        folder / 'log',
        f'one={folder}/iter_1.pth',
        folder / 'images',
        '--compare',
        f'two=random:{folder}/iter_1.pth',
        '--shown',
        2,
    ) as port:
        window = webdriver.Chrome(options=options, service=webdriver.chrome.service.Service(driver))
        try:
            window.get(f'http://127.0.0.1:{port}/')
            yield window
        finally:
            window.quit()


def sheet(window):
    """Return the address and pixels (H, W, 3) of the current sheet."""
    script = """
        const image = document.querySelector('#sheet img');
        if (!image || !image.complete || !image.naturalWidth) return null;
        const canvas = document.createElement('canvas');
        canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
        const pen = canvas.getContext('2d');
        pen.drawImage(image, 0, 0);
        return [image.src, canvas.width, canvas.height,
                Array.from(pen.getImageData(0, 0, canvas.width, canvas.height).data)];"""
    for _ in range(120):
        found = window.execute_script(script)
        if found:
            pixels = np.array(found[3], dtype=np.uint8).reshape(found[2], found[1], 4)
            return found[0], pixels[..., :3]
        time.sleep(0.25)
    raise AssertionError('there is no sheet')


def wait_for_another(window, address, act):
    """Repeat an action until the sheet changes: the page may not listen immediately."""
    for attempt in range(80):
        if attempt % 20 == 0:
            act()
        found = window.execute_script("return document.querySelector('#sheet img').src")
        if found != address:
            return sheet(window)
        time.sleep(0.25)
    raise AssertionError('the sheet did not change')


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
