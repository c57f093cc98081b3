"""The study of what protects a backbone, at toy size."""

from __future__ import annotations

import json

import do_no_harm as tool
import pytest

from cotap_mm.engine.optim.param_groups import CoTAPOptimWrapperConstructor
from cotap_mm.registry import MODELS, build

TINY = [
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.dataset.patch.num_images=12',
    'train_dataloader.persistent_workers=False',
]


def test_each_variant_protects_in_its_way(tmp_path):
    args = tool.parse_args(['--work-dir', str(tmp_path)])
    found = {}
    for variant in tool.VARIANTS:
        job = dict(data='toy', variant=variant, seed=0, iters=60, images=4)
        config = tool.make_config(job, args)
        model = build(MODELS, config.model)
        chosen = config.optim_wrapper
        options = dict(type='cotap_mm.MixedPrecisionOptimWrapper', optimizer=chosen.optimizer)
        wrapper = CoTAPOptimWrapperConstructor(options, chosen.paramwise_cfg)(model)
        groups = wrapper.optimizer.param_groups
        learning = [name for name, p in model.backbone.named_parameters() if p.requires_grad]
        found[variant] = dict(
            lr=groups[0]['lr'],
            learning={name.split('.')[1] for name in learning if name.startswith('layers.')},
            is_lora=any('lora_' in name for name in learning),
            frozen=max(group.get('freeze_iters', 0) for group in groups),
            scale=min(group.get('lr_scale', 1.0) for group in groups),
            anchor=model.losses.weights.get('gram'),
        )
    usual = found.pop('usual rate')
    assert all(each['lr'] == pytest.approx(10 * usual['lr']) for each in found.values())
    assert found['head warm-up']['frozen'] == 30
    assert found['layer decay 0.5']['scale'] == 0.5**5  # embeddings of four blocks
    assert found['last block']['learning'] == {'3'}
    assert found['rate x 10']['learning'] == set('0123')
    assert found['LoRA 8']['is_lora'] and not found['rate x 10']['is_lora']
    assert [found[f'anchor x {weight}']['anchor'] for weight in (10, 100)] == [10, 100]


@pytest.mark.slow
def test_run_and_its_page(tmp_path):
    folders = ['--out', str(tmp_path / 'docs'), '--work-dir', str(tmp_path / 'work')]
    numbers = ['--seeds', '0', '--iters', '2', '--images', '2']
    names = ['rate x 10', 'LoRA 8']
    tool.main([*folders, *numbers, '--variants', *names, '--cfg-options', *TINY])
    runs = json.loads((tmp_path / 'docs/do_no_harm.json').read_text())['runs']
    assert [run['variant'] for run in runs] == names
    for run in runs:
        assert [step for step, _ in run['backbone']] == [0, 1, 2]
    assert runs[0]['backbone'][0] == runs[1]['backbone'][0]  # the same start
    page = (tmp_path / 'docs/do_no_harm.md').read_text()
    assert page.count('| toy | backbone | ') == page.count('| toy | filter | ') == 2
    assert (tmp_path / 'docs/do_no_harm.png').is_file()
