"""Run ``tools/test.py`` with the options of ``mim test``, at toy size."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from cotap_mm.engine.launch.testing import flipped, keep_test_only
from tests.downstream.test_training import metrics, run, tool  # noqa: F401  (run is a fixture)


def untrained(path):
    """Save a checkpoint of random weights for a config file."""
    config = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        torch.manual_seed(0)
        model = MODELS.build(config.model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), path.parent / 'model.pth')
    return str(path.parent / 'model.pth')


@pytest.mark.slow
@pytest.mark.smoke
def test_segmentation(run, tmp_path):  # noqa: F811
    config, _ = run('voc_linear')
    checkpoint = untrained(config)
    common = [str(config), checkpoint, '--work-dir', str(tmp_path / 'tested')]
    tool('test')([*common, '--out', str(tmp_path / 'out'), '--show-dir', str(tmp_path / 'shown')])
    plain = metrics(tmp_path / 'tested', 'mIoU')
    found = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert found == ['val0.png', 'val1.png']
    with Image.open(tmp_path / 'out/val0.png') as image:
        assert image.size == (64, 48) and np.asarray(image).max() < 21
    assert len(list((tmp_path / 'shown').rglob('*val?*.png'))) == 2

    # A config that already wraps its model is not wrapped again.
    wrapped = Config.fromfile(config)
    wrapped.model = dict(type='SegTTAModel', module=wrapped.model)
    dataset = wrapped.test_dataloader.dataset
    dataset.pipeline = flipped(dataset.pipeline)
    wrapped.tta_pipeline = None
    wrapped.dump(tmp_path / 'wrapped.py')
    runs = [str(tmp_path / 'wrapped.py')], [str(config), '--cfg-options', 'tta_pipeline=None']
    scores = []
    for number, arguments in enumerate(runs):
        folder = tmp_path / f'augmented{number}'
        tool('test')([arguments[0], checkpoint, '--tta', '--work-dir', str(folder), *arguments[1:]])
        scores.append(metrics(folder, 'mIoU'))
    assert scores[0] == scores[1] and 0 <= plain <= 100


@pytest.mark.slow
def test_classes_without_labels(run, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.delenv('COTAP_TRACEBACK', raising=False)
    config, _ = run('voc_linear')
    common = [str(config), untrained(config), '--work-dir', str(tmp_path / 'tested')]
    for file in (tmp_path / 'data/VOCdevkit/VOC2012/SegmentationClass').glob('val*.png'):
        Image.fromarray(np.asarray(Image.open(file)) % 2).save(file)
    tool('test')(common)
    assert (
        "'bicycle' (2)"
        in capsys.readouterr().err + next((tmp_path / 'tested').glob('*/*.log')).read_text()
    )
    for file in (tmp_path / 'data/VOCdevkit/VOC2012/SegmentationClass').glob('val*.png'):
        Image.fromarray(np.asarray(Image.open(file)) * 255).save(file)
    with pytest.raises((SystemExit, RuntimeError), match="show only class 'background'"):
        tool('test')(common)


@pytest.mark.slow
@pytest.mark.smoke
def test_detection(run, tmp_path):  # noqa: F811
    config, _ = run('voc_faster-rcnn')
    common = [str(config), untrained(config), '--work-dir', str(tmp_path / 'tested')]
    out = tmp_path / 'new/out.pkl'
    tool('test')([*common, '--tta', '--out', str(out), '--show-dir', str(tmp_path / 'shown')])
    found = pickle.loads(out.read_bytes())
    assert len(found) == 6 and 'pred_instances' in found[0]
    assert len(list((tmp_path / 'shown').glob('*.jpg'))) == 6
    with pytest.raises(SystemExit, match='--out must end with .pkl'):
        tool('test')([*common, '--out', str(tmp_path / 'folder')])


@pytest.mark.slow
def test_classification(run, tmp_path):  # noqa: F811
    config, _ = run('imagenet_linear')
    common = [str(config), untrained(config), '--work-dir', str(tmp_path / 'tested')]
    tool('test')([*common, '--tta', '--out', str(tmp_path / 'out.pkl')])
    assert len(pickle.loads((tmp_path / 'out.pkl').read_bytes())) == 2
    tool('test')([*common, '--show-dir', str(tmp_path / 'shown')])
    assert len(list((tmp_path / 'shown').rglob('*.*'))) == 2
    with pytest.raises(SystemExit, match='--show-dir and --tta'):
        tool('test')([*common, '--show-dir', str(tmp_path / 'shown'), '--tta'])


@pytest.mark.slow
def test_training_data_are_not_needed(run, tmp_path):  # noqa: F811
    config, _ = run('voc_linear')
    checkpoint = untrained(config)
    for file in (tmp_path / 'data/VOCdevkit/VOC2012/SegmentationClassAug').glob('*'):
        file.unlink()
    tool('test')([str(config), checkpoint, '--work-dir', str(tmp_path / 'tested')])
    with pytest.raises(ValueError, match='has no test_evaluator, test_cfg'):
        keep_test_only(Config(dict(test_dataloader=dict())), 'config.py')


def test_missing_test_set_is_reported(run, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.delenv('COTAP_TRACEBACK', raising=False)
    config, _ = run('voc_linear')
    checkpoint = untrained(config)
    next((tmp_path / 'data/VOCdevkit/VOC2012/SegmentationClass').glob('val0.png')).unlink()
    with pytest.raises(SystemExit, match='test data .*1 of 2 masks do not exist'):
        tool('test')([str(config), checkpoint, '--work-dir', str(tmp_path / 'tested')])


def test_flips_precede_the_labels():
    found = flipped(
        [
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(8, 8)),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ]
    )
    assert [step['type'] for step in found] == ['LoadImageFromFile', 'Resize', 'TestTimeAug']
    views = found[-1]['transforms']
    assert [view[0]['type'] for view in views] == ['RandomFlip', 'LoadAnnotations', 'PackSegInputs']
    with pytest.raises(ValueError, match='ends with a Pack... step'):
        flipped([dict(type='LoadImageFromFile')])
