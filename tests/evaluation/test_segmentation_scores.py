from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_matrix
from sklearn.metrics import jaccard_score

from cotap_mm.evaluation import confusion_matrix, segmentation_scores
from cotap_mm.evaluation.metrics import best_class


def test_agrees_with_sklearn():
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(4, (9, 9), generator=generator)
    prediction = torch.randint(4, (9, 9), generator=generator)
    matrix = confusion_matrix(prediction, label, 4)
    truth, predicted = label.flatten().tolist(), prediction.flatten().tolist()
    assert matrix.tolist() == sklearn_matrix(truth, predicted).tolist()
    scores = segmentation_scores(matrix)
    assert scores['IoU'] == pytest.approx(100 * jaccard_score(truth, predicted, average=None))
    assert scores['mIoU'] == pytest.approx(100 * jaccard_score(truth, predicted, average='macro'))


def test_best_class_is_the_first_of_equal_scores():
    scores = torch.randint(3, (11, 20, 30), generator=torch.Generator().manual_seed(0)).float()
    assert best_class(scores).tolist() == scores.numpy().argmax(axis=0).tolist()


def test_only_255_is_ignored():
    label, prediction = torch.tensor([0, 255, 1]), torch.tensor([0, 1, 1])
    assert confusion_matrix(prediction, label, 2).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match='0..1 or 255'):
        confusion_matrix(prediction, torch.tensor([0, 2, 1]), 2)
    with pytest.raises(ValueError, match='0..1 or 255'):
        confusion_matrix(prediction, torch.tensor([0, -1, 1]), 2)


def test_absent_class_is_excluded_from_the_mean():
    scores = segmentation_scores(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    assert scores['IoU'][:2] == pytest.approx([75, 200 / 3])
    assert math.isnan(scores['IoU'][2])
    assert scores['mIoU'] == pytest.approx((75 + 200 / 3) / 2)
    assert scores['aAcc'] == pytest.approx(500 / 6)
