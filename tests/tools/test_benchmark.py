"""tools/benchmark.py: measures a step, compares initial weights, skips finished runs."""

from __future__ import annotations

import importlib
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from cotap_mm.errors import UserError
from cotap_mm.registry import MODELS, build
from tests.downstream.test_training import ROOT, VIT, shrink
from tests.helpers.fake_data import write_for
from tests.helpers.tool_loading import TOOLS, load_tool
from tests.helpers.toy_config import toy_options


@pytest.fixture
def benchmark(tmp_path, monkeypatch, capsys):
    """Function that runs the tool in a temporary folder and returns what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TOOLS))  # as for a script

    def run(*arguments):
        capsys.readouterr()
        load_tool('benchmark').main(list(arguments))
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_waits(tmp_path, benchmark):
    """On a CPU there is nothing to wait for, but the iterations run."""
    text = '_base_ = "{}"\nmodel = {!r}\ntrain_dataloader = {!r}\n'
    crops = dict(dataset=dict(crops=dict(global_size=32, local_size=16)))
    config = tmp_path / 'toy.py'
    config.write_text(
        text.format(ROOT / 'configs/cotap/demo.py', toy_options(2, 1)['model'], crops)
    )
    benchmark(
        'waits',
        str(config),
        '--steps',
        '2',
        '--warmup',
        '1',
        '--device',
        'cpu',
        '--json',
        'out.json',
    )
    (row,) = json.loads((tmp_path / 'out.json').read_text())['rows']
    assert row['steps'] == 2 and row['waits a step'] == 0 and row['launches a step'] == 0


def test_what_counts_as_a_wait(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    is_wait = importlib.import_module('benchmarks.waits').is_wait
    assert is_wait('cudaStreamSynchronize') and is_wait('cudaMemcpy')
    assert not is_wait('cudaMemcpyAsync') and not is_wait('cudaLaunchKernel')


def test_what_counts_as_a_kernel(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    kernels = importlib.import_module('benchmarks.kernels')
    x = torch.ones(4, 4)
    for count, work in (
        (0, lambda: x.t()[1].view(2, 2).detach()),
        (0, lambda: torch.empty(3)),
        (1, lambda: x + x),
        (1, lambda: x.mul_(2)),
        (1, lambda: torch._foreach_neg([x, x])),
        (2, lambda: x.t().contiguous() @ x),
    ):
        assert kernels.count_kernels(work) == count


@pytest.mark.slow
@pytest.mark.smoke
def test_step(tmp_path, benchmark):
    shown = benchmark(
        'step',
        'demo',
        '--batch-size',
        '2',
        '--steps',
        '2',
        '--warmup',
        '1',
        '--profile',
        '3',
        '--json',
        'out.json',
    )
    assert 'init_weights' not in shown and 'One training step' in shown
    result = json.loads((tmp_path / 'out.json').read_text())
    assert result['settings']['batch_size'] == 2
    released, ours = result['rows']
    assert [released['step'], ours['step']] == ['released', 'ours']
    assert released['dtype'] == ours['dtype'] == 'float32'
    assert result['settings']['bound'].endswith('TFLOP/s (float32)')
    for row in (released, ours):
        assert row['seconds'] > 0 and row['peak GB'] > 0 and row['images/s'] > 0
        assert row['memory ratio'] > 0
    # The same losses from fewer operations.
    assert float(ours['losses, largest relative difference']) < 1e-4
    assert 0.5 < ours['FLOP ratio'] < 0.95 and released['FLOP ratio'] == 1
    assert 500 < ours['kernels, eager'] < 0.6 * released['kernels, eager']
    assert {'machine', 'torch', 'date'} <= set(result)
    operators = json.loads((tmp_path / 'out.json.profile.json').read_text())['rows']
    assert [row['step'] for row in operators] == ['released'] * 3 + ['ours'] * 3
    assert all(row['seconds'] > 0 and row['calls'] > 0 for row in operators)


@pytest.mark.slow
def test_loss(tmp_path, benchmark):
    shown = benchmark(
        'loss',
        '--device',
        'cpu',
        '--pairs',
        '40',
        '900',
        '--runs',
        '2',
        '--longest-plain',
        '100',
        '--json',
        'out.json',
        '--plot',
        'out.png',
    )
    rows = json.loads((tmp_path / 'out.json').read_text())['rows']
    assert [(row['pairs'], row['form']) for row in rows] == [
        (40, 'plain'),
        (40, 'pairwise'),
        (40, 'sorted'),
        (900, 'pairwise'),
        (900, 'sorted'),
    ]
    assert all(float(row['gradient, largest relative difference']) < 1e-4 for row in rows[:3])
    assert '| 900   | sorted' in shown and (tmp_path / 'out.png').stat().st_size > 5000


def test_data(tmp_path, benchmark):
    benchmark(
        'data',
        '--size',
        '120',
        '160',
        '--count',
        '3',
        '--runs',
        '2',
        '--workers',
        '0',
        '1',
        '--prefetch',
        '2',
        '--batch-size',
        '2',
        '--json',
        'out.json',
    )
    result = json.loads((tmp_path / 'out.json').read_text())
    assert result['settings']['images'] == 3 and result['settings']['first_image'] == '160 x 120'
    rows = {row['what']: row for row in result['rows']}
    assert rows['released, restated']['times faster'] == 1
    assert rows['decoding alone']['time / decoding'] == 1
    assert all(row['images/s of one core'] > 0 for row in result['rows'])
    assert len(rows) == 6 and {'torchvision', 'pillow'} <= set(result['settings'])
    loaders = json.loads((tmp_path / 'out.json.loader.json').read_text())['rows']
    assert [row['loader'] for row in loaders] == ['0 workers', '1 workers, 2 batches ahead']
    assert all(row['images/s'] > 0 for row in loaders)


def test_crops(tmp_path, benchmark):
    sizes = ['--size', '120', '160', '--count', '3', '--batch-size', '2', '--runs', '1']
    shown = benchmark('crops', *sizes, '--json', str(tmp_path / 'crops.json'))
    rows = json.loads((tmp_path / 'crops.json').read_text())['rows']
    assert all(row['time / decoding'] > 0 for row in rows[:7]) and len(rows) == 10
    assert rows[-1]['on the device'] == 'copy, decode and crop' and rows[-1]['ms / batch'] > 0
    assert rows[-1]['MB'] > 0 and 'crops on the device' in shown


def test_operators(tmp_path, benchmark):
    pytest.importorskip('mmcv.ops')
    names = ['nms', 'roi_align', 'sync_bn']
    arguments = ['--device', 'cpu', '--runs', '1', '--json', 'out.json']
    benchmark('operators', *arguments, '--operators', *names)
    rows = json.loads((tmp_path / 'out.json').read_text())['rows']
    assert [(row['operator'], row['passes']) for row in rows] == [
        ('nms', 'forward'),
        *((name, passes) for name in names[1:] for passes in ('forward', 'forward + backward')),
    ]
    assert all(row['ms'] > 0 for row in rows)
    compared = [row for row in rows if 'compiled ms' in row]
    assert {row['operator'] for row in compared} in ({'nms', 'roi_align'}, set())
    assert all(float(row['largest relative difference']) < 1e-5 for row in compared)


def test_unknown_operators_are_reported(tmp_path):
    pytest.importorskip('mmcv.ops')
    operators = importlib.import_module('benchmarks.operators')
    args = load_tool('benchmark').parse_args(['operators', '--operators', 'nsm', '--device', 'cpu'])
    with pytest.raises(ValueError, match=r"unknown operators \['nsm'\]; choose from nms, "):
        operators.run(args)


@pytest.mark.slow
def test_neighbors(tmp_path, benchmark):
    benchmark(
        'neighbors',
        '--device',
        'cpu',
        '--images',
        '200',
        '400',
        '--width',
        '8',
        '--at-once-up-to',
        '200',
        '--runs',
        '1',
        '--json',
        'out.json',
    )
    result = json.loads((tmp_path / 'out.json').read_text())
    rows = [row for row in result['rows'] if row['search'] not in ('faiss, flat', 'ivf')]
    assert [(row['images'], row['search']) for row in rows] == [
        (200, 'ours'),
        (200, 'whole matrix'),
        (400, 'ours'),
    ]
    assert rows[1]['same neighbors'] == '100.00%'
    recalls = [row['same neighbors'] for row in result['rows'] if row['search'] == 'ivf']
    assert recalls in ([], ['100.00%'] * 2)  # every cell is probed
    settings = result['settings']
    assert settings['projected_seconds_of_one'] == pytest.approx(
        settings['projected_seconds_of_each_rank'] * 8, abs=8
    )


@pytest.mark.slow
def test_eval(tmp_path, benchmark):
    benchmark(
        'eval',
        '--device',
        'cpu',
        '--memory',
        '300',
        '--queries',
        '50',
        '--width',
        '8',
        '--runs',
        '2',
        '--json',
        'out.json',
    )
    rows = json.loads((tmp_path / 'out.json').read_text())['rows']
    assert [row['search'] for row in rows] == ['at once', 'in blocks']
    assert all(row['same neighbours'] == '100.00%' for row in rows)


@pytest.mark.slow
def test_transfer(tmp_path, benchmark, warm_python, monkeypatch):
    monkeypatch.setattr(sys, 'executable', warm_python)  # for the trainings
    write_for('voc_linear', tmp_path)
    config = shrink(Config.fromfile(ROOT / 'configs' / 'downstream' / 'voc_linear.py'))
    config.dump(tmp_path / 'tiny.py')
    vit = build(MODELS, VIT)
    vit.init_weights()
    torch.save(dict(state_dict=vit.state_dict()), tmp_path / 'init_0.pth')
    arguments = [
        'transfer',
        'tiny.py',
        '--seeds',
        '0',
        '--work-dir',
        'out',
        '--variant',
        'random',
        'init=none',
        '--variant',
        'plain',
        'init=init_{seed}.pth',
        'model.backbone.use_filter=False',
        'model.decode_head.in_channels=16',
        'model.decode_head.channels=16',
    ]
    first = benchmark(*arguments)
    assert '| start | seed 0 | mean mIoU | std |' in first
    kept = json.loads((tmp_path / 'out' / 'plain_0' / 'result.json').read_text())
    assert f'| plain | {kept["mIoU"]:.2f} | {kept["mIoU"]:.2f} | - |' in first
    saved = torch.load(tmp_path / 'out' / 'plain_0' / 'iter_2.pth', weights_only=True)
    assert not any('neck' in name for name in saved['state_dict'])

    (tmp_path / 'init_0.pth').unlink()  # nothing is trained again, so it is not missed
    assert benchmark(*arguments) == first


def test_metrics_are_in_per_cent(tmp_path):
    tool = load_tool('benchmarks/transfer')
    (tmp_path / '1/vis_data').mkdir(parents=True)
    (tmp_path / '1/vis_data/scalars.json').write_text(
        '{"mIoU": 1.0, "coco/bbox_mAP": 0.07}\n{"mIoU": 22.5, "coco/bbox_mAP": 0.125}\n'
    )
    assert tool.last_metric(tmp_path, 'mIoU') == 22.5
    assert tool.last_metric(tmp_path, 'coco/bbox_mAP') == 12.5
    with pytest.raises(UserError, match='no aAcc, only coco/bbox_mAP, mIoU'):
        tool.last_metric(tmp_path, 'aAcc')


def test_share_of_evaluations(benchmark, monkeypatch):
    """Of a fake training: 1 s per step; an evaluation takes 2 s before the first and 4 s later."""
    module = importlib.import_module('benchmarks.eval')
    clock, lengths = [0.0], iter([2, 4])
    built = []

    def spend(seconds):
        clock[0] += seconds

    class Hook(module.EvaluationHook):
        def __init__(self):
            pass

        def evaluate(self, runner, step):
            spend(next(lengths))

    def from_cfg(config):
        built.append(config)
        return SimpleNamespace(hooks=[Hook()])

    def train(runner):
        runner.hooks[0].evaluate(runner, 0)
        spend(built[0].train_cfg.max_iters)
        runner.hooks[0].evaluate(runner, 20)

    monkeypatch.setattr(module, 'ensure_neighbors', lambda *args: None)
    monkeypatch.setattr(module, 'Runner', SimpleNamespace(from_cfg=from_cfg))
    monkeypatch.setattr(module.launch, 'train', train)
    monkeypatch.setattr(module.time, 'process_time', lambda: clock[0])
    out = benchmark('eval', '--share-of', str(ROOT / 'configs/cotap/demo.py'), '--runs', '1')
    assert built[0].custom_hooks[0].interval == built[0].train_cfg.max_iters == 20
    # Steps 0, 100, 200, 300 and 350 of 350.
    assert f'{(2 + 4 * 4) / (2 + 4 * 4 + 350):.1%}' in out
