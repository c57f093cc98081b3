"""A headless Chromium at the viewer's page."""

from __future__ import annotations

import importlib
import shutil
import time

import pytest

from tests.helpers.tiny import write_checkpoint
from tests.helpers.tool_loading import forget_runs
from tests.helpers.viewer_process import picture, running, write_images
from tests.helpers.warm_python import WarmPython


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
    # test_viewer_server.py starts a Python that imports them.
    importlib.import_module('cotap_mm.visualization.viewer.app')
    importlib.import_module('cotap_mm.commands.viewer')
    with (
        WarmPython(folder, prepare=forget_runs) as python,
        running(
            folder / 'log',
            f'one={folder}/iter_1.pth',
            folder / 'images',
            '--compare',
            f'two=random:{folder}/iter_1.pth',
            '--shown',
            2,
            python=python,
        ) as port,
    ):
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
        return [image.src, canvas.toDataURL('image/png')];"""
    for _ in range(120):
        found = window.execute_script(script)
        if found:
            return found[0], picture(dict(url=found[1]))[..., :3]
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
