"""Unwrap data set configs of OpenMMLab libraries, such as RepeatDataset."""

from __future__ import annotations

from typing import Any

#: Wrappers that select samples by an argument of their own.
_SELECTING = ('KFoldDataset',)


def inner_datasets(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the configs of the data sets inside any wrappers.

    RepeatDataset, ClassBalancedDataset and MultiImageMixDataset wrap one data set (``dataset``),
    ConcatDataset several (``datasets``); wrappers may be nested.

    Args:
        dataset (dict): Config of a data set or wrapper.

    Returns:
        list[dict]: The configs, in order and not copied; ``[dataset]`` if it is not a wrapper.

    Raises:
        ValueError: If a wrapper does not contain a data set, or selects samples itself.
    """
    if not isinstance(dataset, dict):
        raise ValueError(
            'a data set must be a dict with a type, got '
            f'{type(dataset).__name__}: {str(dataset)[:80]}'
        )
    name = str(dataset.get('type'))
    if name.split('.')[-1] in _SELECTING:
        raise ValueError(
            f'{name} selects a part of its images, so its data set cannot be used '
            'without it; give the folders of the two parts'
        )
    if 'datasets' in dataset:
        inner = dataset['datasets']
    elif 'dataset' in dataset:
        inner = [dataset['dataset']]
    else:
        return [dataset]
    if not isinstance(inner, (list, tuple)) or not inner:
        raise ValueError(f'{name} must contain at least one data set, got {inner!r}')
    return [config for wrapped in inner for config in inner_datasets(wrapped)]
