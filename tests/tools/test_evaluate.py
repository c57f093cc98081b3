"""Run tools/evaluate.py on toy scenes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import cotap_mm.commands.evaluate
from cotap_mm.cli.evaluate import parse_args
from cotap_mm.evaluation.evaluate import PROTOCOLS, Result, headline_rows
from tests.helpers.tiny import CONFIG, build_tiny
from tests.helpers.tool_loading import load_tool

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def tool():
    return load_tool('evaluate')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('run') / 'iter_1.pth'
    torch.save(dict(state_dict=build_tiny().state_dict(), meta=dict(cfg=CONFIG)), path)
    return str(path)


def run(tool, tmp_path, *arguments):
    tool.main([*map(str, arguments), '--out', str(tmp_path / 'out'), '--device', 'cpu'])
    return [json.loads(file.read_text()) for file in sorted((tmp_path / 'out').glob('*.json'))]


QUICK = {
    'dense-retrieval': ['k=3'],
    'linear-seg': ['steps=2', 'train_batch=2'],
    'overclustering': ['num_clusters=[4]', 'seeds=[0]', 'kmeans=sklearn'],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    'protocol', [name for name, found in PROTOCOLS.items() if found.kind == 'segmentation']
)
def test_all_segmentation_protocols(tool, checkpoint, tmp_path, protocol, capsys):
    settings = ['--set', *QUICK[protocol]] if protocol in QUICK else []
    (result,) = run(
        tool,
        tmp_path,
        checkpoint,
        '--protocol',
        protocol,
        '--data',
        'toy',
        '--limit',
        3,
        '--image-size',
        32,
        *settings,
    )
    assert result['protocol'].split('/')[0] == protocol and result['data'] == 'toy'
    assert result['parameters']['image_size'] == 32 and 'torch' in result['versions']
    assert result['scores'][result['metric']] == pytest.approx(result['value'])
    assert 0 <= result['value'] <= 100 and result['images']['val'] == 3
    assert f'{result["value"]:.2f}' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize('protocol', ['knn', 'linear'])
def test_classification(tool, checkpoint, tmp_path, protocol):
    (result,) = run(
        tool,
        tmp_path,
        checkpoint,
        '--protocol',
        protocol,
        '--data',
        'toy-classes',
        '--limit',
        20,
        '--image-size',
        32,
    )
    assert result['metric'] == 'top1' and result['images'] == dict(train=20, val=20)


@pytest.mark.slow
@pytest.mark.smoke
def test_several_backbones_make_a_table_and_a_plot(tool, checkpoint, tmp_path, capsys):
    arguments = [
        f'ours={checkpoint}',
        '--compare',
        f'plain={checkpoint}@backbone',
        f'random:{checkpoint}',
        '--protocol',
        'dense-retrieval',
        'dispersion',
        '--data',
        'toy',
        '--limit',
        3,
        '--image-size',
        32,
        '--set',
        'k=3',
        'purity=0.6',
    ]
    results = run(tool, tmp_path, *arguments)
    assert len(results) == 6
    assert {each['backbone'] for each in results} == {'ours', 'plain', 'random iter_1'}
    assert {each['parameters'].get('k') for each in results} == {3, None}
    weights = {each['backbone']: each['weights'] for each in results}
    assert len(set(weights.values())) == 3  # @backbone excludes the weights of the filter
    out = capsys.readouterr().out
    assert 'plain' in out and 'reused from' not in out
    with Image.open(tmp_path / 'out/comparison.png') as picture:
        assert min(picture.size) > 100
    run(tool, tmp_path, *arguments)
    assert capsys.readouterr().out.count('reused from') == 6


def test_other_data_or_heads_are_evaluated_again(tool, checkpoint, tmp_path, capsys):
    """The path of a result depends on the folder of the images."""
    for place in ('one', 'two'):
        for index in range(2):
            shade = torch.randint(2, (32, 32), dtype=torch.uint8) * 200
            for kind, pixels in (
                ('images', shade[..., None].expand(-1, -1, 3)),
                ('labels', shade // 200),
            ):
                path = tmp_path / place / kind / f'val/{index}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.contiguous().numpy()).save(path)
    common = [
        checkpoint,
        '--protocol',
        'dispersion',
        '--data',
        'folder',
        '--set',
        'purity=0.5',
        '--classes',
    ]
    calls = [
        (*common, 'dark', 'bright', '--root', tmp_path / 'one'),
        (*common, 'dark', 'bright', '--root', tmp_path / 'two'),
        (*common, 'a', 'b', '--root', tmp_path / 'one'),
        (*common, 'a', 'b', '--root', tmp_path / 'one', '--num-heads', 1),
    ]
    for number, arguments in enumerate(calls):
        assert len(run(tool, tmp_path, *arguments)) == number + 1
    assert 'reused from' not in capsys.readouterr().out
    short = [word for word in calls[0] if word not in ('--data', 'folder', '--root')]
    short[-1:] = ['--images', tmp_path / 'one']  # one name for the folder, as in other commands
    assert len(run(tool, tmp_path, *short)) == len(calls)
    assert capsys.readouterr().out.count('reused from') == 1


@pytest.mark.parametrize(
    'words, message',
    [
        ([], 'required: --data or --images'),
        (['--images', 'a', '--data', 'camvid'], '--images is short for --data folder --root DIR'),
        (['--images', 'a', '--root', 'b'], 'give one of the two'),
    ],
)
def test_images_or_data(words, message, capsys):
    with pytest.raises(SystemExit):
        parse_args(['FILE', '--protocol', 'dispersion', *words])
    assert message in capsys.readouterr().err
    found = parse_args(['FILE', '--protocol', 'dispersion', '--images', 'DIR', '--data', 'folder'])
    assert (found.data, found.root) == ('folder', 'DIR')


@pytest.mark.parametrize(
    'value, message',
    [
        (255, 'the labels of dataset show no class at all, only 1024 ignored'),
        (0, "the labels of dataset show only class 'x' \\(0\\)"),
    ],
)
def test_labels_without_classes_are_rejected(
    tool, checkpoint, tmp_path, value, message, monkeypatch
):
    monkeypatch.delenv('COTAP_TRACEBACK', raising=False)
    path = tmp_path / 'data'
    for kind in ('images', 'labels'):
        (path / kind / 'val').mkdir(parents=True)
        Image.new(
            'RGB' if kind == 'images' else 'L', (32, 32), 0 if kind == 'images' else value
        ).save(path / kind / 'val/a.png')
    with pytest.raises(SystemExit, match=message):
        run(
            tool,
            tmp_path,
            checkpoint,
            '--protocol',
            'overclustering',
            '--data',
            'folder',
            '--root',
            path,
            '--classes',
            'x',
            'y',
            '--set',
            'num_clusters=2',
            'seeds=0',
            'kmeans=sklearn',
        )
    assert not list((tmp_path / 'out').glob('*.json'))


def test_nan_is_shown_as_a_dash():
    values = dict(
        backbone='a',
        data='d',
        parameters={},
        weights='',
        images={},
        source='',
        seconds=1.0,
        protocol='p',
        metric='m',
        scores={},
    )
    rows = headline_rows([Result(value=float('nan'), **values), Result(value=None, **values)])
    assert rows[1][1] == '-' and Result(value=float('nan'), **values).to_json()['value'] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--protocol', 'hummingbird', '--data', 'toy'], 'protocol must be one of dense-retrieval'),
        (
            ['--protocol', 'knn', '--data', 'toy'],
            'knn needs data for classification, toy is for '
            'segmentation; protocols for it are dense-retrieval',
        ),
        (['--protocol', 'knn', '--data', 'imagenet'], 'data must be one of'),
        (
            ['--protocol', 'knn', '--data', 'toy-classes', '--set', 'kk=3'],
            '--set kk: knn has no such',
        ),
        (['--protocol', 'knn', '--data', 'classes', '--root', 'nowhere'], '--root DIR'),
        (['--protocol', 'knn', '--data', 'toy-classes', '--set', 'kk=3'], 'did you mean k\\?'),
        (
            ['--protocol', 'knn', 'linear', '--data', 'toy-classes', '--set', 'epochs=many'],
            "epochs of linear must be an integer, got 'many'",
        ),
    ],
)
def test_invalid_arguments(tool, checkpoint, tmp_path, arguments, message, monkeypatch):
    monkeypatch.delenv('COTAP_TRACEBACK', raising=False)
    with pytest.raises(SystemExit, match=message):
        run(tool, tmp_path, checkpoint, *arguments)
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_missing_file(tool, tmp_path):
    with pytest.raises(SystemExit, match='checkpoint nowhere.pth is not a file'):
        run(tool, tmp_path, 'nowhere.pth', '--protocol', 'knn', '--data', 'toy-classes')


def test_names():
    tool = cotap_mm.commands.evaluate
    found = tool.parse_backbones(
        ['a/x.pth', 'plain=b/y.pth@backbone', 'a/x.pth@filter', 'random:timm:vit_tiny']
    )
    assert found == [
        ('x', 'a/x.pth', None),
        ('plain', 'b/y.pth', 'backbone'),
        ('x (filter)', 'a/x.pth', 'filter'),
        ('random vit_tiny', 'random:timm:vit_tiny', None),
    ]
    with pytest.raises(ValueError, match="two backbones are called 'x'; write NAME="):
        tool.parse_backbones(['a/x.pth', 'a/x.pth'])


def test_video(tool, checkpoint, tmp_path):
    generator = torch.Generator().manual_seed(0)
    for index in range(4):
        for folder, shape in (('frames', (32, 48, 3)), ('masks', (32, 48))):
            values = torch.randint(2 if folder == 'masks' else 256, shape, generator=generator)
            path = tmp_path / f'clip/{folder}/{index:03d}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.to(torch.uint8).numpy()).save(path)
    (result,) = run(
        tool,
        tmp_path,
        checkpoint,
        '--protocol',
        'video',
        '--data',
        'clip',
        '--root',
        tmp_path / 'clip',
        '--set',
        'short_side=32',
        'multiple=8',
    )
    assert result['metric'] == 'J&F' and 0 < result['value'] < 100
    assert result['scores']['num_objects'] == 1
