"""A headless Chromium at the viewer's page."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest

from tests.helpers.tiny import write_checkpoint
from tests.helpers.viewer_process import running, write_images


@pytest.fixture(scope='package')
def folder(tmp_path_factory):
    """A tiny checkpoint and three images."""
    folder = tmp_path_factory.mktemp('viewer')
    write_checkpoint(folder / 'iter_1.pth')
    write_images(folder / 'images')
    return folder


@pytest.fixture(scope='package')
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
