"""evaluate, compare and visualize of Python return what the commands print."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import cotap_mm
from cotap_mm.api.backbones import load_backbones
from cotap_mm.cli.main import cotap
from cotap_mm.evaluation import load_data
from cotap_mm.evaluation.evaluate import Result
from tests.helpers.tiny import write_checkpoint
from tests.helpers.tool_loading import load_tool
from tests.helpers.toy_config import write_noise

QUICK = dict(limit=3, image_size=32, settings=dict(k=3), device='cpu')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp('api')
    write_checkpoint(place / 'iter_1.pth')
    rng = np.random.default_rng(0)
    for index in range(3):
        write_noise(place / 'images' / f'{index}.png', rng)
        (place / 'labels').mkdir(exist_ok=True)
        label = np.zeros((32, 32), np.uint8)
        label[:, 16:] = 1
        Image.fromarray(label).save(place / 'labels' / f'{index}.png')
    return place


def test_evaluate_equals_the_command(place, tmp_path):
    checkpoint = place / 'iter_1.pth'
    found = cotap_mm.evaluate(checkpoint, 'toy', **QUICK)
    assert isinstance(found, Result) and found.backbone == 'iter_1' and found.metric == 'mIoU'
    assert found.parameters['k'] == 3 and found.images == dict(train=3, val=3)
    words = '--protocol dense-retrieval --data toy --limit 3 --image-size 32 --set k=3 --device cpu'
    load_tool('evaluate').main([str(checkpoint), *words.split(), '--out', str(tmp_path / 'a')])
    (file,) = (tmp_path / 'a').glob('*.json')
    assert json.loads(file.read_text())['value'] == pytest.approx(found.value)

    encoder = cotap_mm.load(checkpoint)
    data = load_data('toy', limit=3)
    options = dict(image_size=32, settings=dict(k=3, purity=0.5), out=tmp_path / 'b')
    first = cotap_mm.evaluate(encoder, data, ['dense-retrieval', 'dispersion'], **options)
    assert [each.protocol for each in first] == ['dense-retrieval', 'dispersion']
    assert first[0].value == pytest.approx(found.value) and first[0].backbone.endswith('Encoder')
    again = cotap_mm.evaluate(encoder, data, ['dense-retrieval', 'dispersion'], **options)
    assert [each.date for each in again] == [each.date for each in first]
    assert [each.seconds for each in again] == [each.seconds for each in first]  # reused


@pytest.mark.parametrize(
    'options, error, text',
    [
        (dict(protocol='knn'), ValueError, 'knn needs data for classification, toy is for'),
        (dict(protocol='hummingbird'), ValueError, 'protocol must be one of dense-retrieval'),
        (dict(settings=dict(kk=3)), ValueError, r"settings\['kk'\]: dense-retrieval has no"),
        (dict(data='camvidd'), ValueError, "got 'camvidd'"),
        (dict(data='voc', root='nowhere'), FileNotFoundError, r'\(root=DIR\)'),
        (dict(data='folder', root='.'), ValueError, 'class names: classes=NAME'),
        (dict(encoder='nowhere.pth'), FileNotFoundError, 'nowhere.pth is not a file'),
        (dict(device='cuda:77'), ValueError, "device 'cuda:77' cannot be used"),
    ],
)
def test_errors_of_evaluate(place, options, error, text):
    with pytest.raises(error, match=text) as caught:
        cotap_mm.evaluate(**{**QUICK, **dict(encoder=place / 'iter_1.pth', data='toy'), **options})
    assert '--' not in str(caught.value)


def test_visualize(place, tmp_path, capsys):
    networks = {
        'before': f'random:{place}/iter_1.pth',
        'after': cotap_mm.load(place / 'iter_1.pth'),
    }
    page = cotap_mm.visualize(
        networks,
        place / 'images',
        tmp_path / 'look',
        kinds=['pca', 'clusters'],
        limit=2,
        size=32,
        clusters=3,
        device='cpu',
    )
    assert page == tmp_path / 'look' / 'report.html'
    text = page.read_text()
    assert '<td>before</td>' in text and 'iter_1.pth' in text and 'Encoder' in text
    assert sorted(path.stem for path in page.parent.glob('*.png')) == ['clusters', 'pca']
    with pytest.raises(ValueError, match='kinds must be of .*, got pcaa'):
        cotap_mm.visualize(networks, place / 'images', tmp_path / 'b', kinds='pcaa')
    with pytest.raises(TypeError, match='no argument clustres'):
        cotap_mm.visualize(networks, place / 'images', tmp_path / 'b', clustres=3)
    with pytest.raises(ValueError, match="kinds='classes': needs labels=..."):
        cotap_mm.visualize(
            networks, place / 'images', tmp_path / 'b', kinds='classes', size=32, device='cpu'
        )
    page.write_text('mine')
    with pytest.raises(ValueError, match='overwrite=True'):
        cotap_mm.visualize(networks, place / 'images', tmp_path / 'look')
    assert not (tmp_path / 'b').exists()


def test_titles(place):
    checkpoint = place / 'iter_1.pth'
    encoder = cotap_mm.load(checkpoint)
    options = dict(device=None, network='teacher')
    found = load_backbones([f'ours={checkpoint}', encoder, f'{checkpoint}@backbone'], **options)
    assert list(found.encoders) == [
        'ours',
        type(encoder).__name__,
        f'{place.name}/iter_1 (backbone)',
    ]
    assert found.checkpoints['ours'] == str(checkpoint)
    assert list(found.encoders.values())[2].network.neck is None
    assert found.encoders['ours'].report.network == 'teacher'
    assert list(load_backbones(checkpoint, 'cpu').encoders) == ['iter_1']
    state = torch.load(checkpoint, weights_only=True)
    for weights in (state, state['state_dict']):
        assert list(load_backbones(weights, num_heads=2, device='cpu').encoders) == ['state dict']
    assert list(load_backbones({'a': encoder, 'b': checkpoint}, 'cpu').encoders) == ['a', 'b']
    with pytest.raises(ValueError, match='two backbones are called'):
        load_backbones([encoder, encoder])


@pytest.mark.slow
def test_compare(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('sys.argv', ['cotap'])
    words = (
        f'compare a={place}/iter_1.pth random:{place}/iter_1.pth --data toy --limit 3 --device cpu '
        f'--image-size 32 --size 32 32 --shown 2 --set k=3 --out {tmp_path / "a"}'
    )
    cotap(words.split())
    printed = capsys.readouterr().out
    assert f'report: {tmp_path / "a" / "report.html"}' in printed and 'random iter_1' in printed
    text = (tmp_path / 'a/report.html').read_text()
    assert f'<td>{place}/iter_1.pth (weights ' in text  # which file a title means
    assert text.count('data:image/png;base64,') == 4 and '<td>random iter_1</td>' in text
    names = {path.name for path in (tmp_path / 'a').glob('*.png')}
    assert names == {'comparison.png', 'compare.png', 'pca.png', 'similarity.png'}
    assert len(list((tmp_path / 'a').glob('*.json'))) == 2
    cotap(words.split())
    assert capsys.readouterr().out.count('reused from') == 2

    networks = {
        'a': cotap_mm.load(place / 'iter_1.pth'),
        'b': cotap_mm.load(f'random:{place}/iter_1.pth'),
    }
    found = cotap_mm.compare(
        networks,
        'toy-classes',
        tmp_path / 'b',
        full=True,
        limit=6,
        image_size=32,
        size=32,
        shown=2,
        kinds=['pca'],
        images=place / 'images',
        settings=dict(k=3, epochs=1),
    )
    assert [result.protocol for result in found.results] == ['knn', 'linear'] * 2
    assert found.rows()[0][1:] == ['knn top1, toy-classes', 'linear top1, toy-classes']
    assert {path.name for path in (tmp_path / 'b').glob('*.png')} == {'comparison.png', 'pca.png'}
    with pytest.raises(ValueError, match='at least two backbones, got a; cotap evaluate'):
        cotap_mm.compare({'a': networks['a']}, 'toy', tmp_path / 'c')
    (tmp_path / 'b/report.html').write_text('mine')
    with pytest.raises(ValueError, match='overwrite=True'):
        cotap_mm.compare(networks, 'toy', tmp_path / 'b')
