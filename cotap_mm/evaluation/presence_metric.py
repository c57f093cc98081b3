"""Warn about classes that do not occur in the labels when OpenMMLab models are tested."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Optional

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from cotap_mm.evaluation.data.label_files import IGNORE_LABEL
from cotap_mm.registry import METRICS

from .class_presence import MeaninglessScore, class_names, review_classes


@METRICS.register_module()
class ClassPresence(BaseMetric):
    """Count the classes that occur in the labels; adds no score.

    Labels are segmentation maps (255 ignored), boxes or image classes. Samples without
    labels are not counted.

    Attributes:
        warnings (list): Result of :func:`review_classes`, after the evaluation, on rank 0.
        error (MeaninglessScore, optional): Why the scores are meaningless.
    """

    default_prefix = 'classes'

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.warnings: list[str] = []
        self.error: Optional[MeaninglessScore] = None

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the labels of one batch."""
        num_classes = len((self.dataset_meta or {}).get('classes') or ())
        for sample in data_samples:
            label, is_map = _labels_of(sample)
            counts = torch.zeros(num_classes + 1, dtype=torch.long)
            if label is not None:
                ignored = label == IGNORE_LABEL if is_map else torch.zeros_like(label).bool()
                known = label[~ignored & (label >= 0) & (label < num_classes)]
                counts[:-1] = torch.bincount(known, minlength=num_classes)
                counts[-1] = ignored.sum()
            self.results.append((label is not None, is_map, counts))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Review the counts; returns no scores."""
        counts = [count for is_labeled, _, count in results if is_labeled]
        if not counts or len(counts[0]) == 1:
            return {}
        least = 2 if any(is_map for _, is_map, _ in results) else 1
        try:
            with class_names((self.dataset_meta or {})['classes']):
                self.warnings = review_classes({'the test data': torch.stack(counts).sum(0)}, least)
        except MeaninglessScore as error:
            self.error = error
        return {}

    def report(self) -> None:
        """Log the warnings.

        Raises:
            MeaninglessScore: If the scores are meaningless.
        """
        for message in self.warnings:
            print_log(message, logger='current', level=logging.WARNING)
        if self.error is not None:
            raise self.error


def _labels_of(sample: dict[str, Any]) -> tuple[Optional[Tensor], bool]:
    """Labels of a data sample as int64 (N,) on the CPU, and whether they are a map."""
    if 'gt_sem_seg' in sample:
        return _flat(sample['gt_sem_seg']['data']), True
    boxes = sample.get('gt_instances')
    if boxes is not None and 'labels' in boxes:
        return _flat(boxes['labels']), False
    if 'gt_label' in sample:
        return _flat(sample['gt_label']), False
    return None, False


def _flat(values: Any) -> Tensor:
    return torch.as_tensor(values).flatten().long().cpu()
