"""Find the data sets inside wrappers such as RepeatDataset, in configs of any OpenMMLab library."""

from __future__ import annotations

from typing import Any

#: Wrappers that choose samples by an argument of their own.
_CHOOSING = ('KFoldDataset',)


def inner_datasets(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """The configs of the data sets that hold the images, without their wrappers.

    RepeatDataset, ClassBalancedDataset and MultiImageMixDataset wrap one (``dataset``),
    ConcatDataset several (``datasets``); wrappers may be nested.

    Args:
        dataset (dict): Config of a data set or wrapper.

    Returns:
        list[dict]: The configs themselves, not copies, in order; one of them if there is no
        wrapper.

    Raises:
        ValueError: If a wrapper holds no data set, or selects samples by itself.
    """
    if not isinstance(dataset, dict):
        raise ValueError(
            'a data set must be a dict with a type, got '
            f'{type(dataset).__name__}: {str(dataset)[:80]}'
        )
    name = str(dataset.get('type'))
    if name.split('.')[-1] in _CHOOSING:
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
        raise ValueError(f'{name} must hold at least one data set, got {inner!r}')
    return [found for each in inner for found in inner_datasets(each)]
