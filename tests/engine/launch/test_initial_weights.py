"""A training reads its initial weights once, and all that start from them get the same."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.model import BaseModule

from cotap_mm.engine.launch.initial_weights import InitialWeights
from cotap_mm.registry import MODELS, build
from cotap_mm.weights import DetectedCheckpoint
from tests.helpers.default_runs import make_images, write_toy_config
from tests.helpers.read_counts import count_reads
from tests.helpers.tool_loading import load_tool
from tests.helpers.toy_config import ARCH, write_init

OURS = dict(type='cotap_mm.CoTAPViT', arch=ARCH, img_size=32, patch_size=8)
MMPRETRAIN = dict(OURS, type='mmpretrain.VisionTransformer', final_norm=False)


class Detector(BaseModule):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = build(MODELS, backbone)


def model_config(backbone, path, **options):
    init_cfg = dict(type='cotap_mm.PretrainedViT', checkpoint=str(path), **options)
    return dict(type='Detector', backbone=dict(backbone, init_cfg=init_cfg))


def test_a_training_with_two_neighbor_searches_reads_its_init_once(tmp_path, monkeypatch):
    config = write_toy_config(tmp_path, 'vits_folder', iters=1)
    make_images(tmp_path / 'patch'), make_images(tmp_path / 'cls', seed=1)
    init = write_init(tmp_path / 'init.pth')
    counts = count_reads(monkeypatch)
    options = ['--images', 'patch', '--cls-images', 'cls', '--init', str(init), '--work-dir', 'run']
    monkeypatch.chdir(tmp_path)
    load_tool('train').main([str(config), *options])
    assert counts == dict(read=1, detected=1, renamed=1)
    assert len(list((tmp_path / 'run').glob('neighbors_*.npy'))) == 2
    (dumped,) = (tmp_path / 'run').glob('*.py')
    assert f"'checkpoint': '{init}'" in dumped.read_text()


@pytest.mark.parametrize('backbone', [OURS, MMPRETRAIN], ids=lambda cfg: cfg['type'])
@pytest.mark.parametrize('is_built', [True, False])
def test_a_model_starts_from_what_was_read(tmp_path, monkeypatch, backbone, is_built):
    path = write_init(tmp_path / 'init.pth')
    expected = torch.load(path, weights_only=True)['state_dict']['backbone.cls_token']
    counts = count_reads(monkeypatch)
    config = model_config(backbone, path)
    weights = InitialWeights()
    assert isinstance(weights.detect(config['backbone']), DetectedCheckpoint)
    if is_built:
        model = Detector(config['backbone'])
        weights.hand_on(model)
    else:  # a strategy builds the model later
        weights.hand_on(config)
        model = Detector(config['backbone'])
    model.init_weights()
    assert counts['read'] == 1 and torch.equal(model.backbone.cls_token, expected)
    assert model.backbone.init_cfg['checkpoint'] == str(path)  # the weights are not kept


def test_other_weights_and_options_are_not_mixed_up(tmp_path):
    first, second = write_init(tmp_path / 'a.pth', 1), write_init(tmp_path / 'b.pth', 2)
    weights = InitialWeights()
    weights.detect(model_config(OURS, first)['backbone'])
    for config in (model_config(OURS, second), model_config(OURS, first, source='mmpretrain')):
        before = copy.deepcopy(config)
        weights.hand_on(config)
        assert config == before
    assert weights.detect(dict(OURS)) is None
    assert weights.detect(dict(OURS, init_cfg=dict(type='Pretrained', checkpoint='x'))) is None
