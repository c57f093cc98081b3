"""What may be wrong with images is said, with numbers and a way out."""

from __future__ import annotations

import pytest

from cotap_mm.planning.findings import find_image_problems
from cotap_mm.planning.survey import Look


def levels(survey, crop_size=224):
    return [finding.level for finding in find_image_problems(survey, crop_size)]


def only(survey, crop_size=224):
    (finding,) = find_image_problems(survey, crop_size)
    return finding


def test_good_images_give_no_finding(survey):
    assert levels(survey(200_000)) == []


@pytest.mark.parametrize(
    'count, level, text',
    [
        (1, 'error', 'at least 2'),
        (300, 'warning', '300 images are few'),
        (5000, 'note', '5,000 images are enough to adapt to one domain'),
    ],
)
def test_number_of_images(survey, count, level, text):
    finding = only(survey(count))
    assert finding.level == level and text in finding.text


@pytest.mark.parametrize('bad, level', [(1, 'warning'), (3, 'error')])
def test_damaged_images(survey, bad, level):
    seen = survey(200_000)
    for look in seen.looks[:bad]:
        look.error = f'{look.name}: OSError: truncated'
    finding = only(seen)
    assert finding.level == level
    assert f'{bad} of 100 images cannot be decoded, e.g. 0.jpg: OSError' in finding.text
    assert '1%' in finding.text


def test_similar_images(survey):
    finding = only(survey(200_000, consecutive=(40, 50), duplicates=[('a', 'b')]))
    assert finding.level == 'warning' and '40 of 50 consecutive images' in finding.text
    finding = only(survey(200_000, consecutive=(1, 50), duplicates=[('a', 'b')]))
    assert finding.level == 'note' and 'e.g. a and b' in finding.text
    pairs = [(f'{i}', f'{i + 1}') for i in range(9)]
    assert only(survey(200_000, duplicates=pairs)).level == 'warning'
    assert 'single color' in only(survey(200_000, blank=['x.png'])).text


def test_sizes(survey):
    finding = only(survey(200_000, size=(100, 200)))
    assert finding.level == 'warning' and '100% of the images have a shorter side' in finding.text
    assert levels(survey(200_000, size=(100, 200)), crop_size=96) == []
    assert 'global_scale' in only(survey(200_000, size=(2000, 3000))).text
    finding = only(survey(200_000, size=(300, 1000)))
    assert 'more than 3 times as long as wide' in finding.text


def test_colors(survey):
    seen = survey(200_000)
    seen.looks += [Look(0, 'g.png', 300, 300, mode='L')]
    assert only(seen).text == '1 of 101 images are gray, repeated in three channels'
    seen = survey(200_000, value_range='0..4095')
    seen.looks[0].is_deep = True
    finding = only(seen)
    assert finding.level == 'warning' and '0..4095' in finding.text and 'mixed' in finding.text
    for look in seen.looks:
        look.is_deep = True
    assert only(seen).level == 'note'


def test_links_and_order(survey):
    seen = survey(300, links=['a/up'], size=(2000, 3000))
    seen.looks[0].error = seen.looks[1].error = seen.looks[2].error = 'x'
    found = find_image_problems(seen, 224)
    assert [finding.level for finding in found] == ['error', 'warning', 'warning', 'note']
    assert any('a/up' in finding.text for finding in found)
