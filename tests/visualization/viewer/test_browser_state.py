"""Keyboard, link, downloads and narrow screens of the viewer in a real browser."""

from __future__ import annotations

import base64
import io
import time
from urllib.parse import parse_qs
from xml.etree import ElementTree

import pytest
from PIL import Image

from cotap_mm.visualization.viewer.sheet import GAP, HEAD, NARROW, PICTURE, Sheet

from .conftest import sheet

pytestmark = pytest.mark.slow
START = 'mode=similarity&on=0&row=1&column=1&grid=4x4&image=0.png&image=1.png'


def until(window, script, wanted, act=None, seconds=40):
    """Wait until a script returns what is wanted; repeat an action every ten seconds."""
    for attempt in range(4 * seconds):
        if act and attempt % 40 == 0:
            act()
        found = window.execute_script(script)
        if wanted(found) if callable(wanted) else found == wanted:
            return found
        time.sleep(0.25)
    raise AssertionError(f'{script} returns {found}')


def state(window):
    """Return the state in the address: one value of each name, and all images."""
    parts = parse_qs(window.execute_script('return location.hash.slice(1)'))
    return {key: value if key == 'image' else value[0] for key, value in parts.items()}


def wait_for(window, **wanted):
    """Wait until the server has confirmed a state: the address then has all its parts."""
    for _ in range(160):
        found = state(window)
        if 'clusters' in found and all(found.get(key) == value for key, value in wanted.items()):
            return found
        time.sleep(0.25)
    raise AssertionError(f'wanted {wanted}, got {found}')


def press(window, *keys, on='body'):
    """Press keys in an element; a modifier holds for the keys after it."""
    window.execute_script('document.activeElement.blur()')
    window.find_element('css selector', on).send_keys(*keys)


@pytest.fixture
def start(page):
    """The page in a known state, after a reload."""
    page.get(page.current_url.split('#')[0] + '#' + START)
    page.refresh()
    wait_for(page, mode='similarity', on='0', row='1', column='1')
    return page


def test_keys_move_the_patch_and_choose_image_and_mode(start):
    from selenium.webdriver.common.keys import Keys

    first = sheet(start)[0]
    press(start, Keys.ARROW_DOWN, on='#sheet')
    wait_for(start, row='2', column='1')
    press(start, Keys.ARROW_LEFT, Keys.ARROW_LEFT)  # stops at the edge
    wait_for(start, row='2', column='0')
    press(start, Keys.SHIFT, Keys.ARROW_RIGHT)
    wait_for(start, row='2', column='3')
    press(start, ']')
    wait_for(start, on='1')
    press(start, ']')
    wait_for(start, on='0')
    press(start, '3')
    wait_for(start, mode='clusters')
    assert start.find_element('css selector', '#mode input[value=clusters]').is_selected()
    assert sheet(start)[0] != first


def test_keys_in_a_text_field_or_on_radio_buttons_do_not_move_the_patch(start):
    from selenium.webdriver.common.keys import Keys

    press(start, '3', ']', Keys.ARROW_DOWN, on='#images input')
    press(start, Keys.ESCAPE, on='#images input')
    press(start, Keys.ARROW_RIGHT, on='#mode input:checked')  # chooses the next mode
    found = wait_for(start, mode='components')
    assert (found['on'], found['row'], found['column']) == ('0', '1', '1')


def test_link_restores_images_patch_and_mode_after_a_reload(start):
    link = 'mode=clusters&clusters=3&on=1&row=0&column=2&grid=4x4&image=0.png&image=2.png'
    source = "return document.querySelector('#sheet img')?.src"
    before = start.execute_script(source)
    start.execute_script('location.hash = arguments[0]', link)
    wanted = dict(mode='clusters', clusters='3', on='1', row='0', column='2')
    found = wait_for(start, **wanted)
    assert found['image'] == ['0.png', '2.png']
    drawn = until(start, source, lambda address: address and address != before)
    start.refresh()
    wait_for(start, **wanted)
    until(start, source, drawn)
    value = start.find_element('css selector', '#clusters input[type=number]')
    assert value.get_attribute('value') == '3'
    start.execute_script("location.hash = 'mode=similarity&image=nothing.png'")
    until(start, 'return document.body.innerText.includes("nothing.png, which is not")', True)
    press(start, '2')
    wait_for(start, mode='components')  # the page still works


def test_buttons_do_what_the_keys_do(start):
    for name, wanted in (
        ('right', dict(column='2')),
        ('down', dict(row='2')),
        ('next', dict(on='1')),
        ('previous', dict(on='0')),
        ('up', dict(row='1')),
        ('left', dict(column='1')),
    ):
        start.find_element('id', name).click()
        wait_for(start, **wanted)


def test_saved_files_contain_their_command(start):
    start.execute_script(
        'window.saved = {}; HTMLAnchorElement.prototype.click = function () {'
        'window.saved[this.download] = this.href; }'
    )
    line = start.find_element('css selector', '#command textarea').get_attribute('value')
    assert line.startswith('cotap visualize one=iter_1.pth two=random:iter_1.pth --images images')
    assert '--kinds similarity --select 0.png 1.png --patch 0 1 1' in line and '/' not in line
    files = {}
    for kind in ('png', 'svg'):
        name = f'similarity.{kind}'
        button = start.find_element('id', f'save-{kind}')
        href = until(start, f"return window.saved['{name}']", bool, button.click)
        files[kind] = base64.b64decode(href.split(',', 1)[1])
    with Image.open(io.BytesIO(files['png'])) as image:
        assert image.info['Command'] == line and image.width > 500
    drawing = ElementTree.fromstring(files['svg'])
    text = ' '.join(drawing.itertext())
    assert line in text and '0: 0.png' in text and 'cosine' in text  # text, not outlines


def test_networks_can_be_hidden_and_shown_again(start):
    start.find_elements('css selector', '#networks input')[0].click()
    wait_for(start, network='two')
    assert sheet(start)[1].shape[0] == 2 * PICTURE + GAP
    line = start.find_element('css selector', '#command textarea').get_attribute('value')
    assert 'two=random:iter_1.pth' in line and 'one=' not in line
    start.refresh()
    until(start, "return document.querySelectorAll('#networks input:checked').length", 1)
    start.find_elements('css selector', '#networks input')[0].click()
    until(start, 'return location.hash.includes("network=")', False)


def test_tab_reaches_everything_in_reading_order(start):
    from selenium.webdriver.common.keys import Keys

    start.execute_script('document.activeElement.blur(); scrollTo(0, 0)')
    stop = (
        'const now = document.activeElement;'
        "return now.closest('#pad button, #mode, #networks, #sheet, #images, #command')?.id || ''"
    )
    reached = []
    for _ in range(40):
        start.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(start.execute_script(stop))
    assert reached[:11] == ['mode'] * 8 + ['networks'] * 2 + ['sheet'], reached
    order = ['sheet', 'left', 'up', 'down', 'right', 'previous', 'next', 'copy']
    order += ['save-png', 'save-svg', 'images', 'command']
    places = [next(i for i, name in enumerate(reached) if name == wanted) for wanted in order]
    assert places == sorted(places), reached
    press(start, Keys.TAB, on='#left')
    ring = 'const now = document.activeElement; return [now.id, getComputedStyle(now).outlineStyle]'
    assert start.execute_script(ring) == ['up', 'solid']


def test_controls_have_names_and_texts_have_contrast(start):
    nodes = start.execute_cdp_cmd('Accessibility.getFullAXTree', {})['nodes']
    focusable = [
        node
        for node in nodes
        if any(p['name'] == 'focusable' and p['value']['value'] for p in node.get('properties', ()))
        and not node.get('ignored')
        and node['role']['value'] not in ('RootWebArea', 'generic')
    ]
    assert len(focusable) > 15
    unnamed = [node['role']['value'] for node in focusable if not node['name'].get('value')]
    assert unnamed == []
    faint = start.execute_script(
        """
        const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const light = ([r, g, b]) =>
            0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
        const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
        const behind = (node) => {
            for (; node; node = node.parentElement) {
                const color = numbers(getComputedStyle(node).backgroundColor);
                if (color.length < 4 || color[3] > 0.5) return color;
            }
            return [255, 255, 255];
        };
        const faint = [];
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
            const element = walker.currentNode.parentElement;
            const text = walker.currentNode.data.trim();
            if (!text || !element.checkVisibility() || element.closest('script, style')) continue;
            if (!element.getClientRects().length) continue;
            const [one, two] = [numbers(getComputedStyle(element).color), behind(element)]
                .map(light).sort((a, b) => b - a);
            const ratio = (one + 0.05) / (two + 0.05);
            if (ratio < 4.5) faint.push([text, ratio]);
        }
        return faint;"""
    )
    assert faint == []


def test_narrow_screens_get_an_upright_sheet(start):

    phone = dict(width=390, height=844, deviceScaleFactor=2, mobile=True)
    start.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', phone)
    try:
        start.refresh()
        width = "return document.querySelector('#sheet img')?.naturalWidth"
        until(start, width, lambda pixels: pixels and abs(pixels - NARROW) < 4)
        wait_for(start, row='1')
        assert start.execute_script('return document.documentElement.scrollWidth') <= 390
        for name in ('left', 'up', 'down', 'right', 'previous', 'next', 'copy', 'save-png'):
            size = start.find_element('id', name).size
            assert min(size['width'], size['height']) >= 44, name
        image = start.find_element('css selector', '#sheet img')
        layout = Sheet((64, 64), 3, upright=True)
        box = start.execute_script(
            'arguments[0].scrollIntoView(); const b = arguments[0].getBoundingClientRect();'
            'return [b.left, b.top, b.width]',
            image,
        )
        scale = box[2] / NARROW
        assert scale * layout.width > 100  # pixels of the screen
        left, top = layout.corner(1, 1)  # the first network, the second image
        x, y = left + 0.9 * layout.width, top + 0.6 * layout.height
        where = dict(x=box[0] + x * scale, y=box[1] + y * scale)
        assert top > HEAD
        start.execute_cdp_cmd('Emulation.setTouchEmulationEnabled', dict(enabled=True))
        for kind, points in (('touchStart', [where]), ('touchEnd', [])):
            start.execute_cdp_cmd('Input.dispatchTouchEvent', dict(type=kind, touchPoints=points))
        wait_for(start, on='1', row='2', column='3')
    finally:
        start.execute_cdp_cmd('Emulation.setTouchEmulationEnabled', dict(enabled=False))
        start.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
        start.refresh()
        wait_for(start, mode='similarity')
