"""The report of a proposal says what is measured and what is estimated."""

from __future__ import annotations

import json

import pytest

from cotap_mm.planning.findings import Finding
from cotap_mm.planning.recipe import Recipe
from cotap_mm.planning.report import as_dict, describe_time, duration, format_text


@pytest.fixture
def recipe():
    return Recipe(
        'vits_folder', 2, 8, 4, 3600, 4, 224, 96, {}, 4 * 2**30, (1.0, 3.0), notes=['because']
    )


def test_text(recipe, survey, gpu):
    findings = [Finding('warning', 'look out'), Finding('note', 'by the way')]
    text = format_text(survey(), findings, gpu(8, 2), recipe, 'cotap train x')
    for part in (
        'images     DIR: 5,000\n',
        'looked at  100 of them, evenly spaced pairs of consecutive images (the same ones in',
        'sizes      640 x 480 px\n',
        'reading    2.0 ms per image on one core (measured)',
        'device     2 x G, 8.0 GB of memory available, 16 CPU cores; 100 TFLOP/s in a bfloat16',
        'warnings\n  * look out\n\nnotes\n  * by the way\n',
        'batch      8 images per GPU, 2 GPUs, 4 steps accumulated: 64 images per step of the',
        'steps      3,600\n',
        'memory     about 4.0 of 8.0 GB (estimate from the shapes of the tensors)',
        'time       1.0 hours to 3.0 hours (rough estimate: the operations of a step at 20% to 45%',
        'why\n  * because\n',
    ):
        assert part in text, (part, text)
    assert text.endswith('\ncommand\n  cotap train x')


def test_measured(recipe, survey, gpu):
    recipe.is_measured, recipe.seconds = True, (2.0, 2.0)
    text = format_text(survey(), [], gpu(8, 2), recipe, 'x')
    assert 'memory     4.0 of 8.0 GB (measured' in text
    assert 'about 2.0 hours (measured: 2.00 s per step on one GPU; the exchange' in text
    assert 'estimate:' not in text
    recipe.seconds = (0.0, 0.0)
    assert describe_time(recipe, gpu()).startswith('unknown')


def test_json(recipe, survey, gpu):
    report = json.loads(json.dumps(as_dict(survey(), [], gpu(), recipe, 'x')))
    assert report['hours'] == [1.0, 3.0] and report['command'] == 'x' and report['count'] == 5000


@pytest.mark.parametrize(
    'hours, text',
    [(0.001, '1 minutes'), (0.5, '30 minutes'), (5, '5.0 hours'), (240, '10 days')],
)
def test_durations(hours, text):
    assert duration(hours) == text
