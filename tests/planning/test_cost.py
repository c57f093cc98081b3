"""The estimates agree with what was measured for ViT-S."""

from __future__ import annotations

import pytest

from cotap_mm.command_line.config_file import load_config
from cotap_mm.planning.cost import estimate_cost, vit_flops


def test_operations_of_a_crop():
    # Counted with PyTorch's FlopCounterMode: 147.15e9 for 16 global, 51.77e9 for 32 local crops.
    assert vit_flops(224, 16, 384, 12) == pytest.approx(147.15e9 / 16, rel=2e-3)
    assert vit_flops(96, 16, 384, 12) == pytest.approx(51.77e9 / 32, rel=2e-3)


def test_step_of_vit_s():
    cost = estimate_cost(load_config('vits_coco'), on_gpu=False)
    assert 2 * cost.flops_per_image == pytest.approx(860e9, rel=0.01)
    assert cost.parameters == pytest.approx(71.3e6 / 2, rel=0.01)
    # Peak of the measured step with 2 images: 4.15 GB, of which 0.9 are Python and libraries.
    assert cost.memory(2) == pytest.approx(4.15e9, rel=0.1)
    assert cost.largest_batch(cost.memory(7) + 1) == 7 and cost.largest_batch(0) == 0


def test_what_changes_the_cost():
    config = load_config('vits_folder')
    recomputed = estimate_cost(config, on_gpu=True)
    config.model.backbone.with_cp = False
    plain = estimate_cost(config, on_gpu=True)
    assert recomputed.bytes_per_image < 0.6 * plain.bytes_per_image
    assert recomputed.flops_per_image > plain.flops_per_image
    config.train_dataloader.dataset.crops.update(global_size=112, local_size=48)
    assert estimate_cost(config, on_gpu=True).flops_per_image < 0.3 * plain.flops_per_image
    base = estimate_cost(load_config('vitb_coco'), on_gpu=True)
    assert 3.3 < base.flops_per_image / plain.flops_per_image < 4.2
    # The config is for GPUs of 8 GB.
    assert recomputed.memory(8) < 0.85 * 8 * 2**30
