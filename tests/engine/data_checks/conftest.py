"""Folders of valid data."""

from __future__ import annotations

import pytest

from tests.helpers.fake_data import detection_folder, segmentation_folder


@pytest.fixture
def seg(tmp_path):
    segmentation_folder(tmp_path, 3)
    return tmp_path


@pytest.fixture
def det(tmp_path):
    detection_folder(tmp_path, 'raccoon')
    return tmp_path
