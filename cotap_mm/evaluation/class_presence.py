"""Which classes do the labels show? A score over classes that never occur means nothing.

Every protocol reads its labels through :class:`WatchedLabels`, which checks their range and
counts the classes. After the measurement, :func:`review_classes` warns about absent classes
by name, and refuses scores that any constant answer would get.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable, Optional, TypeVar

import torch
from mmengine.logging import print_log
from torch import Tensor

from cotap_mm.distributed.collectives import all_reduce_sum
from cotap_mm.errors import UserError
from cotap_mm.evaluation.data.label_files import IGNORE_LABEL

F = TypeVar('F', bound=Callable[..., Any])
_PARTS = ('train', 'memory', 'val', 'queries', 'dataset')
_LEARNED = ('train', 'memory')
_names: Sequence[str] = ()


class MeaninglessScore(UserError, ValueError):
    """The labels cannot give a score that means anything."""


@contextmanager
def class_names(names: Sequence[str]) -> Iterator[None]:
    """Within this context, warnings call the classes by these names."""
    global _names
    before, _names = _names, tuple(names)
    try:
        yield
    finally:
        _names = before


class WatchedLabels:
    """A data set whose labels are checked and counted as they are read.

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
        """The sample; a label map as int64.

        Raises:
            ValueError: If a label is neither a class nor ignored, with its file.
        """
        sample = self.dataset[index]
        label = sample['label']
        if not isinstance(label, Tensor) or label.ndim == 0:
            self._count(torch.as_tensor([int(label)]), index, None)
            return sample
        label = label.long()
        self._count(label.flatten(), index, IGNORE_LABEL)
        return {**sample, 'label': label}

    def _count(self, label: Tensor, index: int, ignored: Optional[int]) -> None:
        kept = label if ignored is None else label[label != ignored]
        if len(kept):
            lowest, highest = (int(each) for each in kept.aminmax())
            if lowest < 0 or highest >= self.num_classes:
                find = getattr(self.dataset, 'label_file', None)
                where = f' in {find(index)}' if find and find(index) else ''
                ignorable = '' if ignored is None else f' or {ignored} (ignored)'
                wrong = highest if highest >= self.num_classes else lowest
                raise ValueError(
                    f'labels must be 0..{self.num_classes - 1}{ignorable}, got '
                    f'{wrong}{where}; check num_classes and the masks'
                )
            self.counts[:-1] += torch.bincount(kept.cpu(), minlength=self.num_classes)
        self.counts[-1] += len(label) - len(kept)


def watch_classes(least: int = 2, maps: bool = True) -> Callable[[F], F]:
    """Decorate a protocol so that absent classes are warned about or refused.

    Args:
        least (int): The protocol's score means nothing if its labels show fewer classes;
            a protocol that learns needs as many in what it learns from. Defaults to 2.
        maps (bool): Whether labels are maps, in which 255 is ignored. Defaults to True.

    Returns:
        Callable: The decorator. The scores get a key ``warnings`` (list of str) if there are any.
    """

    def decorate(measure: F) -> F:
        signature = inspect.signature(measure)

        @functools.wraps(measure)
        def watched(*args: Any, **kwargs: Any) -> dict[str, Any]:
            bound = signature.bind(*args, **kwargs)
            num_classes = bound.arguments['num_classes']
            _check_number(num_classes, maps)
            parts = {}
            for name in _PARTS:
                if name in bound.arguments:
                    parts[name] = WatchedLabels(bound.arguments[name], num_classes)
                    bound.arguments[name] = parts[name]
            scores = measure(*bound.args, **bound.kwargs)
            found = review_classes(
                {name: all_reduce_sum(part.counts) for name, part in parts.items()}, least
            )
            found += [
                f'{key} is not a number: the images do not show enough for it'
                for key, value in scores.items()
                if isinstance(value, float) and math.isnan(value)
            ]
            for sentence in found:
                print_log(sentence, logger='current', level=logging.WARNING)
            return {**scores, 'warnings': found} if found else scores

        return watched  # type: ignore[return-value]

    return decorate


def review_classes(counts: dict[str, Tensor], least: int = 2) -> list[str]:
    """What is wrong with the classes that labels show.

    Args:
        counts (dict): For each part (``train``, ``val``, ...) how often each class occurs,
            and at the end how often "ignored", shape (C + 1,).
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
            f'{_listed(total == 0)} in no label of {" and ".join(counts)}, and so not '
            'scored; check the class names and the values of the masks'
        )
    for name, seen in scored.items():
        only_learned = (seen[:-1] == 0) & (total > 0)
        if only_learned.any():
            warnings.append(f'{_listed(only_learned)} in no label of {name}, which is scored')
    if learned is not None:
        never_learned = (counts[learned][:-1] == 0) & (total > 0)
        if never_learned.any():
            warnings.append(
                f'{_listed(never_learned)} in no label of {learned}, and so cannot be recognized'
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
        f'classes must occur for a score to mean anything{remedy}'
    )


def _listed(which: Tensor, verb: str = ' is| are') -> str:
    """The chosen classes by name, and the verb that goes with their number."""
    chosen = which.nonzero()[:, 0].tolist()
    named = len(_names) == len(which)
    shown = [f"'{_names[index]}' ({index})" if named else str(index) for index in chosen[:10]]
    more = f' and {len(chosen) - 10} more' if len(chosen) > 10 else ''
    single, _, several = verb.partition('|')
    kind = 'class' if len(chosen) == 1 else 'classes'
    return f'{kind} {", ".join(shown)}{more}{single if len(chosen) == 1 else several}'


def _check_number(num_classes: Any, maps: bool) -> None:
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f'num_classes must be a positive integer, got {num_classes!r}')
    if maps and num_classes > IGNORE_LABEL:
        raise ValueError(
            f'num_classes must be at most {IGNORE_LABEL}, since label {IGNORE_LABEL} '
            f'is ignored, got {num_classes}; merge classes'
        )
