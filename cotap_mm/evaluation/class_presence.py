"""Check which classes occur in the labels, since a score over absent classes is meaningless.

All protocols read labels through :class:`WatchedLabels`, which checks their range and counts
the classes. After the measurement, :func:`review_classes` warns about absent classes by name,
and rejects scores that any constant prediction would get.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, Optional, TypeVar

import torch
from mmengine.logging import print_log
from torch import Tensor

from cotap_mm.distributed.collectives import all_reduce_sum
from cotap_mm.errors import UserError
from cotap_mm.evaluation.data.label_files import IGNORE_LABEL, check_label_range
from cotap_mm.evaluation.data.labeled_set import LabeledSet, labeled_set_parameters

F = TypeVar('F', bound=Callable[..., Any])
_LEARNED = ('train', 'memory')  # parameters whose data sets are learned from
_names: Sequence[str] = ()


class MeaninglessScore(UserError, ValueError):
    """The labels do not allow a meaningful score."""


@contextmanager
def class_names(names: Sequence[str]) -> Iterator[None]:
    """Use these class names in warnings within this context."""
    global _names
    before, _names = _names, tuple(names)
    try:
        yield
    finally:
        _names = before


class WatchedLabels:
    """Data set that checks and counts the labels that are read from it.

    Args:
        dataset: Data set of ``dict(image, label)``; a label is a map of class indices
            (H, W), 255 ignored, or one class index.
        num_classes (int): Number of classes.
    """

    def __init__(self, dataset: Any, num_classes: int) -> None:
        self.dataset, self.num_classes = dataset, num_classes
        self.counts = torch.zeros(num_classes + 1, dtype=torch.long)  # last: ignored

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read a sample; a label map becomes int64.

        Raises:
            ValueError: If a label is out of range; the message names its file.
        """
        sample = self.dataset[index]
        label = sample['label']
        if not isinstance(label, Tensor) or label.ndim == 0:
            self._count(torch.as_tensor([int(label)]), index, None)
            return sample
        label = label if label.dtype == torch.uint8 else label.long()
        self._count(label.flatten(), index, IGNORE_LABEL)
        return {**sample, 'label': label.long()}

    def _count(self, label: Tensor, index: int, ignored: Optional[int]) -> None:
        find = getattr(self.dataset, 'label_file', None)
        check_label_range(label, self.num_classes, ignored, partial(find, index) if find else None)
        if ignored is not None:
            label = label.masked_fill(label == ignored, self.num_classes)
        self.counts += torch.bincount(label.cpu(), minlength=len(self.counts))


def watch_classes(least: int = 2, maps: bool = True) -> Callable[[F], F]:
    """Decorate a protocol so that absent classes cause a warning or an error.

    The decorator applies to all parameters that are annotated as :class:`LabeledSet`.

    Args:
        least (int): Number of classes that must occur in the labels for a meaningful score;
            if the protocol learns, in the labels it learns from. Defaults to 2.
        maps (bool): Whether labels are maps, in which 255 is ignored. Defaults to True.

    Returns:
        Callable: The decorator. Warnings are added to the scores as ``warnings`` (list of str). A
        protocol that measures several encoders returns a list of scores.
    """

    def decorate(measure: F) -> F:
        signature = inspect.signature(measure)
        names = labeled_set_parameters(measure)

        @functools.wraps(measure)
        def watched(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            sets = {name: bound.arguments[name] for name in names}
            _check_sets(sets, maps)
            watched_labels = {}
            for name, labeled in sets.items():
                watched_labels[name] = WatchedLabels(labeled.dataset, labeled.num_classes)
                bound.arguments[name] = labeled.with_dataset(watched_labels[name])
            scores = measure(*bound.args, **bound.kwargs)
            counts = {name: all_reduce_sum(w.counts) for name, w in watched_labels.items()}
            messages = review_classes(counts, least)
            if isinstance(scores, list):
                return [_with_warnings(each, messages) for each in scores]
            return _with_warnings(scores, messages)

        return watched  # type: ignore[return-value]

    return decorate


def _with_warnings(scores: dict[str, Any], messages: list[str]) -> dict[str, Any]:
    """Log messages and those about scores that are not a number, and add them to the scores."""
    messages = messages + [
        f'{key} is not a number: the images do not show enough for it'
        for key, value in scores.items()
        if isinstance(value, float) and math.isnan(value)
    ]
    for message in messages:
        print_log(message, logger='current', level=logging.WARNING)
    return {**scores, 'warnings': messages} if messages else scores


def review_classes(counts: dict[str, Tensor], least: int = 2) -> list[str]:
    """Report classes that are missing from the labels.

    Args:
        counts (dict): For each part (``train``, ``val``, ...) the number of labels of each class,
            followed by the number of ignored labels, shape (C + 1,).
        least (int): See :func:`watch_classes`.

    Returns:
        list[str]: Warnings that name the classes.

    Raises:
        MeaninglessScore: If fewer classes occur than a score needs.
    """
    learned = next((name for name in _LEARNED if name in counts), None)
    for name, seen in counts.items():
        needed = least if learned in (None, name) else 1
        _refuse_too_few(name, seen, needed)
    scored = {name: seen for name, seen in counts.items() if name not in _LEARNED}
    total = torch.stack([seen[:-1] for seen in counts.values()]).sum(dim=0)
    warnings = []
    if not total.all():
        warnings.append(
            f'{_listed(total == 0)} not occur in the labels of {" and ".join(counts)} and will '
            'not be scored; check the class names and the values of the masks'
        )
    for name, seen in scored.items():
        only_learned = (seen[:-1] == 0) & (total > 0)
        if only_learned.any():
            warnings.append(
                f'{_listed(only_learned)} not occur in the labels of {name}, which are scored'
            )
    if learned is not None:
        never_learned = (counts[learned][:-1] == 0) & (total > 0)
        if never_learned.any():
            warnings.append(
                f'{_listed(never_learned)} not occur in the labels of {learned} and cannot be '
                'recognized'
            )
    return warnings


def _refuse_too_few(name: str, seen: Tensor, needed: int) -> None:
    present = int((seen[:-1] > 0).sum())
    if present >= needed:
        return
    if not present:
        raise MeaninglessScore(
            f'the labels of {name} show no class at all, only {int(seen[-1])} '
            'ignored (255) pixels, so nothing can be scored'
        )
    remedy = (
        f'. The other {int(seen[-1])} pixels are 255, which is ignored: masks of 0 and 255 '
        'must become 0 and 1'
        if seen[-1]
        else ''
    )
    raise MeaninglessScore(
        f'the labels of {name} show only {_listed(seen[:-1] > 0, verb="")}; at least {needed} '
        f'classes must occur for a meaningful score{remedy}'
    )


def _listed(which: Tensor, verb: str = ' does| do') -> str:
    """List the chosen classes by name, followed by the verb in singular or plural."""
    chosen = which.nonzero()[:, 0].tolist()
    named = len(_names) == len(which)
    shown = [f"'{_names[index]}' ({index})" if named else str(index) for index in chosen[:10]]
    more = f' and {len(chosen) - 10} more' if len(chosen) > 10 else ''
    single, _, several = verb.partition('|')
    kind = 'class' if len(chosen) == 1 else 'classes'
    return f'{kind} {", ".join(shown)}{more}{single if len(chosen) == 1 else several}'


def _check_sets(sets: dict[str, Any], maps: bool) -> None:
    for name, labeled in sets.items():
        if not isinstance(labeled, LabeledSet):
            raise TypeError(f'{name} must be a LabeledSet, got {type(labeled).__name__}')
    numbers = sorted({labeled.num_classes for labeled in sets.values()})
    if len(numbers) > 1:
        raise ValueError(f'{" and ".join(sets)} must have the same num_classes, got {numbers}')
    num_classes = numbers[0]
    if maps and num_classes > IGNORE_LABEL:
        raise ValueError(
            f'num_classes must be at most {IGNORE_LABEL}, since label {IGNORE_LABEL} '
            f'is ignored, got {num_classes}; merge classes'
        )
