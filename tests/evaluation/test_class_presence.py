"""Absent classes are reported and meaningless scores are rejected in every protocol."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from cotap_mm.evaluation import Clip, EvaluationData, evaluate
from cotap_mm.evaluation.class_presence import MeaninglessScore, review_classes
from cotap_mm.evaluation.evaluate import PROTOCOLS
from cotap_mm.evaluation.presence_metric import ClassPresence
from cotap_mm.evaluation.protocols.video_segmentation import label_propagation
from tests.helpers.pixel_scenes import PixelEncoder, scenes

SETTINGS = {
    'dense-retrieval': dict(k=2),
    'linear-seg': dict(steps=2, train_batch=2),
    'overclustering': dict(num_clusters=2, seeds=0, kmeans='sklearn'),
    'knn': dict(k=1),
}
MAPS = [name for name, found in PROTOCOLS.items() if found.kind == 'segmentation']


class Attending(PixelEncoder):
    """Encoder with CLS attention, for the foreground protocol."""

    def cls_attention(self, images):
        return images[:, :2, ::4, ::4].abs() + 0.1


def relabeled(count, table, seed=0):
    """Scenes of three classes, whose labels are replaced by the values in ``table``."""
    values = torch.tensor(table)
    return [
        dict(image=each['image'], label=values[each['label']]) for each in scenes(count, seed=seed)
    ]


def with_labels(labels):
    return [dict(each, label=label) for each, label in zip(scenes(len(labels)), labels)]


def measure(protocol, train, val, classes=('background', 'object')):
    kind = PROTOCOLS[protocol].kind
    return evaluate(
        Attending(),
        EvaluationData('data', kind, classes, val, train),
        protocol,
        **SETTINGS.get(protocol, {}),
    ).scores


@pytest.mark.parametrize('protocol', MAPS)
def test_masks_of_0_and_255_are_rejected(protocol):
    """Dispersion within one class is meaningful, so it only causes a warning."""
    masks = relabeled(3, [0, 255, 255])
    if protocol == 'dispersion':
        found = measure(protocol, masks, masks)
        assert "class 'object' (1) does not occur in the labels of dataset" in found['warnings'][0]
        assert 'silhouette is not a number' in found['warnings'][1]
        return
    if protocol == 'foreground':
        with pytest.raises(ValueError, match=r'shows a foreground class \[1\]; .*255 is ignored'):
            measure(protocol, masks, masks)
        return
    with pytest.raises(
        MeaninglessScore,
        match=r"show only class 'background' \(0\); at least 2 .*"
        'masks of 0 and 255 must become 0 and 1',
    ):
        measure(protocol, masks, masks)


@pytest.mark.parametrize('protocol', MAPS)
def test_unlabeled_data_are_rejected(protocol):
    masks = relabeled(3, [255, 255, 255])
    with pytest.raises(ValueError, match='no class at all|no patch|no pair|foreground class'):
        measure(protocol, masks, masks)


@pytest.mark.parametrize('protocol', MAPS)
def test_absent_class_is_reported(protocol, caplog):
    masks = relabeled(4, [0, 1, 1])
    found = measure(protocol, masks, masks, ('sky', 'road', 'unicorn'))
    assert "class 'unicorn' (2) does not occur in the labels of " in found['warnings'][0]
    assert 'warnings' not in measure(protocol, scenes(4), scenes(4), ('sky', 'road', 'tree'))


@pytest.mark.parametrize('protocol', ['knn', 'linear'])
def test_classification(protocol):
    found = measure(protocol, with_labels([0, 1, 1]), with_labels([0, 0]), ('cat', 'dog', 'fox'))
    assert found['warnings'] == [
        "class 'fox' (2) does not occur in the labels of train and val and will not be "
        'scored; check the class names and the values of the masks',
        "class 'dog' (1) does not occur in the labels of val, which are scored",
    ]
    found = measure(protocol, with_labels([0, 1]), with_labels([0, 2, 1]), ('cat', 'dog', 'fox'))
    assert found['warnings'] == [
        "class 'fox' (2) does not occur in the labels of train and cannot be recognized"
    ]
    with pytest.raises(MeaninglessScore, match="labels of train show only class 'dog'"):
        measure(protocol, with_labels([1, 1]), with_labels([0, 1]), ('cat', 'dog'))


def test_too_few_or_too_many_classes():
    with pytest.raises(MeaninglessScore, match='at least 2 classes'):
        measure('linear-seg', relabeled(2, [0, 0, 255]), relabeled(2, [0, 0, 255]), ('object',))
    with pytest.raises(ValueError, match='num_classes must be at most 255'):
        measure('dense-retrieval', scenes(2), scenes(2), [str(i) for i in range(300)])


def write_mask(path, values):
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)
    return path


def test_video_frames_without_labels_are_not_scored(tmp_path):
    """Two empty masks would score 100 %."""
    pixels = [scenes(1, seed=seed)[0]['image'].permute(1, 2, 0).numpy() for seed in range(3)]
    frames = []
    for index, each in enumerate(pixels):
        Image.fromarray(each).save(tmp_path / f'{index}.jpg')
        frames.append(tmp_path / f'{index}.jpg')
    first = write_mask(tmp_path / 'a.png', np.eye(16) > 0)
    empty = write_mask(tmp_path / 'b.png', np.full((16, 16), 255))
    masks = {0: first, 1: empty, 2: first}
    options = dict(image_size=16, radius=None)
    found = label_propagation(PixelEncoder(), [Clip('c', frames, masks, [1, 2])], **options)
    alone = label_propagation(PixelEncoder(), [Clip('c', frames, masks, [2])], **options)
    assert found.pop('warnings') == [
        '1 masks are 255 (ignored) everywhere; their frames are not scored'
    ]
    assert found == alone
    with pytest.raises(ValueError, match='none of 1 clips has a mask'):
        label_propagation(PixelEncoder(), [Clip('c', frames, masks, [1])], **options)


def test_mutual_matches_are_not_nan():
    found = measure('correspondence', None, scenes(3), ('a', 'b', 'c'))
    assert not math.isnan(found['accuracy'])


def test_review_classes():
    counts = dict(train=torch.tensor([5, 0, 3, 9]), val=torch.tensor([5, 1, 0, 0]))
    assert review_classes(counts) == [
        'class 2 does not occur in the labels of val, which are scored',
        'class 1 does not occur in the labels of train and cannot be recognized',
    ]
    many = torch.zeros(31).long()
    many[:2] = 1
    assert (
        'classes 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 18 more do not occur in the labels of val'
        in review_classes(dict(val=many))[0]
    )


def seg_sample(values):
    return dict(gt_sem_seg=dict(data=torch.tensor(values)[None]))


@pytest.mark.parametrize(
    'samples, warnings, error',
    [
        (
            [seg_sample([[0, 1], [255, 0]])],
            [
                "class 'c' (2) does not occur in the labels of the test data and will not be "
                'scored; check the class names and the values of the masks'
            ],
            None,
        ),
        ([seg_sample([[0, 255], [255, 0]])], [], 'show only class'),
        ([seg_sample([[255, 255]])], [], 'no class at all'),
        ([dict(gt_label=torch.tensor([1])), dict(gt_label=torch.tensor([0, 2]))], [], None),
        (
            [dict(gt_instances=dict(labels=torch.tensor([0, 0, 2])))],
            [
                "class 'b' (1) does not occur in the labels of the test data and will not be "
                'scored; check the class names and the values of the masks'
            ],
            None,
        ),
        ([dict(gt_instances=dict(labels=torch.tensor([]).long()))], [], 'no class at all'),
        ([dict(pred_sem_seg=1)], [], None),
    ],
)
def test_metric_for_openmmlab_libraries(samples, warnings, error):
    metric = ClassPresence()
    metric.dataset_meta = dict(classes=('a', 'b', 'c'))
    metric.process(None, samples)
    assert metric.evaluate(len(samples)) == {}
    assert metric.warnings == warnings
    if error:
        with pytest.raises(MeaninglessScore, match=error):
            metric.report()
    else:
        metric.report()
