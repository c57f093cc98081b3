"""The tiny CoTAP and its batch as fixtures."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.tiny import build_tiny, make_inputs


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return build_tiny()


@pytest.fixture
def inputs():
    return make_inputs()
