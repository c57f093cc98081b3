from __future__ import annotations

import json
import math
from pathlib import Path
from unittest import mock

import pytest
from mmengine.config import Config

import cotap_mm.commands.demo
from cotap_mm import signals
from cotap_mm.command_line.config_file import load_config
from tests.helpers.tool_loading import load_tool

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def demo():
    return load_tool('demo')


@pytest.fixture(scope='module')
def steps():
    return cotap_mm.commands.demo


TINY = """
_base_ = ['{root}/configs/_base_/models/cotap_vit-small-p16.py',
          '{root}/configs/_base_/default_runtime.py']
model = dict(
    backbone=dict(_delete_=True, type='DINOViT', arch=dict(embed_dims=16, num_layers=2, num_heads=2,
                  feedforward_channels=16), img_size=32, patch_size=8),
    neck=dict(in_channels=16, num_prototypes=2),
    head=dict(patch=dict(in_channels=32, hidden_channels=8, num_clusters=4),
              cls=dict(in_channels=32, hidden_channels=8, num_clusters=4)),
    memory=dict(patch_queue=dict(size=64, per_step=8), cls_queue=dict(size=16, per_step=4),
                template_bank=dict(size=16, per_step=2)),
    pairs=dict(pool_sizes=(2, 4), topk=2, num_negatives=1))
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='InfiniteSampler'),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='NeighborPairs', neighbors='auto', num_neighbors=2,
                 patch=dict(type='ToyScenes', num_images=8, image_size=32),
                 crops=dict(global_size=32, local_size=16)))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=9)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3))
default_hooks = dict(logger=dict(interval=1))
demo = dict(memory=dict(type='ToyScenes', split='memory', num_images=4, image_size=32),
            test=dict(type='ToyScenes', split='test', num_images=4, image_size=32))
"""


@pytest.mark.slow
@pytest.mark.smoke
def test_trains_evaluates_and_reports(demo, steps, tmp_path, capsys):
    config = tmp_path / 'tiny.py'
    config.write_text(TINY.format(root=ROOT.as_posix()))
    demo.main(
        [
            '--config',
            str(config),
            '--work-dir',
            str(tmp_path / 'out'),
            '--iters',
            '2',
            '--seeds',
            '3',
            '4',
            '--from-scratch',
        ]
    )
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert results['iterations'] == 2 and set(results['seeds']) == {'3', '4'}
    for scores in results['seeds'].values():
        assert set(scores) == {steps.REFERENCE, *steps.MEASURED}
        assert all(0 <= score['mIoU'] <= 100 for score in scores.values())
        # The teacher starts as the student, and training moves the student at once.
        assert scores['init, backbone'] != scores['CoTAP student, backbone']
    assert sorted(path.stem for path in (tmp_path / 'out').glob('*.png')) == [
        'components',
        'crops',
        'curves',
        'foreground',
        'prototypes',
        'retrieval',
        'similarity',
    ]
    printed = capsys.readouterr().out
    assert 'CoTAP student, filter' in printed and str(tmp_path / 'out' / 'report.html') in printed
    assert 'evaluating CoTAP teacher, filter (7 of 7)' in printed


def test_a_stopped_demo_does_not_promise_to_resume(steps, tmp_path, monkeypatch):
    def stop(runner):
        raise signals.Stopped('SIGTERM', 'The last checkpoint is a.pth, and --resume continues')

    monkeypatch.setattr(steps, 'ensure_neighbors', lambda *args: None)
    monkeypatch.setattr(steps, 'Runner', mock.MagicMock())
    monkeypatch.setattr(steps.launch, 'train', stop)
    with pytest.raises(signals.Stopped, match='start it again') as stopped:
        steps.train(Config(dict(train_cfg=dict(max_iters=1))), 0, tmp_path)
    assert '--resume' not in str(stopped.value) and stopped.value.code == signals.EXIT_STATUS


def scores_of(steps, first, second):
    names = [steps.REFERENCE, *steps.MEASURED]
    return {
        0: {name: dict(mIoU=first + i) for i, name in enumerate(names)},
        1: {name: dict(mIoU=second + 2 * i) for i, name in enumerate(names)},
    }


def test_summary_has_mean_deviation_and_gain(steps):
    rows = steps.summarize(scores_of(steps, 10.0, 12.0))
    assert rows[0] == ['random weights, backbone', 11.0, f'{math.sqrt(2):.2f}', '-1.50']
    assert rows[1] == ['init, backbone', 12.5, f'{1.5 * math.sqrt(2):.2f}', '+0.00']
    assert rows[3][1] == pytest.approx(15.5) and rows[3][3] == '+3.00'


def test_one_seed_has_no_deviation(steps):
    rows = steps.summarize({0: scores_of(steps, 10.0, 12.0)[0]})
    assert {row[2] for row in rows} == {'-'}


def test_classes_that_never_occur_are_skipped(steps):
    found = steps.with_class_names({'init': dict(mIoU=50.0, IoU=[50.0, math.nan])}, ('sky', 'sea'))
    assert found == {'init': dict(mIoU=50.0, IoU={'sky': 50.0})}
    json.dumps(found, allow_nan=False)


def test_defaults(demo):
    args = demo.parse_args([])
    assert args.seeds == [0] and not args.from_scratch and args.iters is None
    config = Path(load_config(args.config).filename)
    assert config.samefile(ROOT / 'configs' / 'cotap' / 'demo.py')


def test_config_without_test_scenes_is_rejected(demo, tmp_path):
    config = tmp_path / 'empty.py'
    config.write_text('model = dict()')
    with pytest.raises(SystemExit, match='error: .*demo=dict'):
        demo.main(['--config', str(config)])
