"""Checkpoints written by earlier versions of the code still work; see old_checkpoints.py."""

from __future__ import annotations

import json

import pytest

from tests.helpers import old_checkpoints

KEPT = sorted(old_checkpoints.OLD.parent.iterdir())


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    return {
        folder.name: old_checkpoints.outcomes(folder, tmp_path_factory.mktemp(folder.name))
        for folder in KEPT
    }


@pytest.mark.slow
@pytest.mark.parametrize('folder', KEPT, ids=lambda folder: folder.name)
@pytest.mark.parametrize(
    'what', ['resumed', 'student', 'teacher', 'published', 'retrieval', 'downstream']
)
def test_old_checkpoints_give_the_same_numbers(outcomes, folder, what):
    expected = json.loads((folder / 'expected.json').read_text())
    assert outcomes[folder.name][what] == pytest.approx(expected[what], rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('folder', KEPT, ids=lambda folder: folder.name)
@pytest.mark.parametrize('target', sorted(old_checkpoints.TARGETS))
def test_old_checkpoints_are_converted_to_the_same_tensors(outcomes, folder, target):
    expected = json.loads((folder / 'expected.json').read_text())['converted'][target]
    assert outcomes[folder.name]['converted'][target] == pytest.approx(expected, rel=1e-6, abs=0)
