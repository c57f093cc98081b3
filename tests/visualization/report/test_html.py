from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from cotap_mm.visualization import Report


@pytest.fixture
def report():
    report = Report('A <run>', 'What it is.')
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    report.add_picture('noise', 'Noise', 'Numbers & colors.', image)
    report.add_table(
        'Scores', 'In percent.', ['what', 'mIoU'], [['init', 12.345], ['end', 50]], strong=[1]
    )
    return report


def test_page_is_self_contained_and_pictures_are_saved_next_to_it(report, tmp_path):
    page = report.save(tmp_path / 'deep' / 'folder')
    text = page.read_text()
    assert 'http' not in text and 'src="data:image/png;base64,' in text
    inline = base64.b64decode(re.search(r'base64,([^"]+)"', text).group(1))
    assert inline == (page.parent / 'noise.png').read_bytes()
    pixels = np.asarray(Image.open(io.BytesIO(inline)))
    assert (pixels == np.arange(48).reshape(4, 4, 3)).all()


def test_text_is_escaped_and_numbers_are_rounded(report, tmp_path):
    text = report.save(tmp_path).read_text()
    assert 'A &lt;run&gt;' in text and 'Numbers &amp; colors.' in text
    assert '<td>12.35</td>' in text or '<td>12.34</td>' in text
    assert '<tr class=strong><td>end</td><td>50</td></tr>' in text


def test_bad_names_and_rows(report):
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match='another name'):
        report.add_picture('noise', '', '', image)
    with pytest.raises(ValueError, match='a-z'):
        report.add_picture('../noise', '', '', image)
    with pytest.raises(ValueError, match='2 cells, got 1'):
        report.add_table('', '', ['a', 'b'], [['x']])


def test_command_is_in_the_page_and_in_the_pictures(tmp_path):
    image, command = np.zeros((2, 2, 3), dtype=np.uint8), 'cotap visualize "ä <b>"'
    report = Report('title', 'intro', command)
    report.add_picture('noise', 'Noise', '', image)
    page = report.save(tmp_path)
    assert 'cotap visualize &quot;ä &lt;b&gt;&quot;' in page.read_text(encoding='utf-8')
    assert Image.open(tmp_path / 'noise.png').info['Command'] == command
    Report('title', 'intro').save(tmp_path)
    assert 'Made by' not in page.read_text(encoding='utf-8')
