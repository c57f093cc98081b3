"""tools/make_toy_vit.py: from toy images to a file that the demo's ViT can start from."""
import os
import subprocess
import sys
from pathlib import Path

import torch
from mmengine.config import Config

from cotap_mm.registry import MODELS, build
from cotap_mm.weights import load_pretrained

ROOT = Path(__file__).resolve().parents[2]


def test_makes_a_file_that_the_demo_can_start_from(tmp_path):
    out = tmp_path / 'toy_vit.pth'
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'make_toy_vit.py'), '--out', str(out),
         '--work-dir', str(tmp_path / 'work'), '--cfg-options', 'toy_images.num_images=8',
         'train_dataloader.batch_size=4', 'train_cfg.max_iters=2'],
        capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / 'work' / 'images').glob('*.png'))) == 8

    config = Config.fromfile(ROOT / 'configs' / 'cotap' / 'demo.py')
    vit = build(MODELS, config.model.backbone)
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    load_pretrained(vit, out)
    for name, value in vit.state_dict().items():
        assert not torch.equal(value, before[name]), f'{name} was not loaded'
