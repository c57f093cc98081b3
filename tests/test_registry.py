"""Options of configs, and defaults of the classes that they name."""

from __future__ import annotations

import pytest

from cotap_mm.models.modules import PatchPairSampler
from cotap_mm.registry import DATASETS, MODELS, default_of, option_of


def test_options_and_defaults():
    assert option_of(MODELS, dict(type='DINOViT', patch_size=8), 'patch_size') == 8
    assert option_of(MODELS, dict(type='cotap_mm.DINOViT'), 'patch_size') == 16
    assert option_of(MODELS, dict(type=MODELS.get('DINOViT')), 'img_size') == 224  # of the parent
    assert option_of(DATASETS, dict(type='NeighborPairs'), 'num_neighbors') == 7
    assert default_of(PatchPairSampler, 'num_negatives') == 5


@pytest.mark.parametrize('name', ['nothing', 'arch_zoo', 'self'])
def test_options_without_a_default(name):
    with pytest.raises(TypeError, match=f"DINOViT has no default for the option '{name}'"):
        option_of(MODELS, dict(type='DINOViT'), name)
