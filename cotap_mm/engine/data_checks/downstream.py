"""Check the data of a downstream run before it trains or tests.

Finds errors within seconds that MMSegmentation, MMDetection and MMPretrain report as "need at
least one array", "Target 2 is out of bounds", or not at all (an epoch without boxes). Rank 0
opens a sample of the files, and reads annotation files once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log

from cotap_mm.datasets.wrapped import inner_datasets
from cotap_mm.engine.backbones import wrapper_and_model

from .classification import check_classification
from .depth import judge_depth, range_of, set_value_range
from .detection import check_detection, compare_parts
from .findings import Findings, Part
from .segmentation import check_segmentation

_CHECKS: dict[str, Callable[[Part, Findings], None]] = {
    'mmseg': check_segmentation,
    'mmdet': check_detection,
    'mmpretrain': check_classification,
}
_NOT_SCORING = (
    'rpn_head',
    'semantic_head',
    'backbone',
    'neck',
    'data_preprocessor',
    'train_cfg',
    'test_cfg',
    'loss_cls',
)
_INCOMPLETE = 'is not complete in'
_REMEDY = (
    'put the data there, or set data_root of the data sets; shipped configs read it from a '
    'variable, e.g. CAMVID=DIR, RACCOON=DIR or DATA_ROOT=DIR before the command'
)


class Head(NamedTuple):
    """A part of a model that predicts classes: its key, and their number."""

    key: str
    num_classes: int


def prepare_downstream(config: Config) -> None:
    """Reject data that a downstream run cannot use, and warn about suspicious data.

    Args:
        config (Config): Config of MMSegmentation, MMDetection or MMPretrain. It is changed only
            if images have more than 8 bits, see :func:`.set_value_range`. The test data are
            checked if it has no ``train_dataloader``, otherwise training and validation data.

    Raises:
        ValueError: Lists all errors; the same on every rank.
    """
    _refuse_augmented(config)
    results = [None]
    if is_main_process():
        findings = _examine(config)
        results = [(*_sentences(findings), range_of(findings))]
    broadcast_object_list(results)
    errors, warnings, value_range = results[0]
    for sentence in warnings:
        print_log(sentence, logger='current', level=logging.WARNING)
    if any(_INCOMPLETE in error for error in errors):
        errors.append(_REMEDY)
    if errors:
        raise ValueError(
            '\n  '.join(['the data cannot be used:', *errors]) if len(errors) > 1 else errors[0]
        )
    set_value_range(config, value_range)


def check_data(config: Config) -> tuple[list[str], list[str]]:
    """Check the data sets of a config.

    Args:
        config (Config): Config of MMSegmentation, MMDetection or MMPretrain.

    Returns:
        tuple[list[str], list[str]]: Errors, which make the run impossible, and warnings.
    """
    return _sentences(_examine(config))


def _sentences(findings: Findings) -> tuple[list[str], list[str]]:
    return list(dict.fromkeys(findings.errors)), list(dict.fromkeys(findings.warnings))


def _examine(config: Config) -> Findings:
    findings = Findings()
    check = _CHECKS.get(config.get('default_scope', ''))
    if check is None:
        return findings
    parts: list[Part] = []
    for name in ('train', 'val') if config.get('train_dataloader') else ('test',):
        loader = config.get(f'{name}_dataloader')
        if not isinstance(loader, dict) or not isinstance(loader.get('dataset'), dict):
            continue
        try:
            parts += [
                Part(name, inner, tuple(heads_of(config.model)))
                for inner in inner_datasets(loader['dataset'])
            ]
        except ValueError as error:  # an unknown wrapper
            findings.warnings.append(f'{name}_dataloader was not checked: {error}')
    _check_metric_files(config, findings)
    for part in parts:
        _check_part(check, part, findings)
    if check is check_detection:
        compare_parts(findings)
    judge_depth(findings)
    return findings


def heads_of(model: Any, key: str = 'model') -> Iterator[Head]:
    """Find the parts of a model's config with ``num_classes`` that labels must fit.

    Args:
        model (dict): Config of the model, or a part of it.
        key (str): Dotted key of ``model``, for messages. Defaults to 'model'.

    Yields:
        Head: All heads except those of teachers, region proposals and class-agnostic parts.
    """
    if isinstance(model, (list, tuple)):
        for index, part in enumerate(model):
            yield from heads_of(part, f'{key}.{index}')
    if not isinstance(model, dict):
        return
    count = model.get('num_classes')
    if (
        isinstance(count, int)
        and 'type' in model
        and not model.get('class_agnostic')
        and not {'language_model', 'text_encoder'} & set(model)
    ):
        yield Head(key, count)
    if {'language_model', 'text_encoder'} & set(model):
        return  # open vocabulary: labels are words
    for name, value in model.items():
        if name not in _NOT_SCORING and not str(name).startswith(('teacher', 'loss')):
            yield from heads_of(value, f'{key}.{name}')


def _check_part(check: Callable[[Part, Findings], None], part: Part, findings: Findings) -> None:
    backend = part.config.get('backend_args') or {}
    if backend.get('backend', 'local') != 'local':
        findings.warnings.append(
            f'{part.name} data are read through {backend["backend"]} and were not checked'
        )
        return
    try:
        check(part, findings)
    except (OSError, AssertionError) as error:
        root = part.config.get('data_root') or '.'
        why = (
            f'{error.filename}: {error.strerror}'
            if isinstance(error, OSError)
            else str(error) or 'a file or folder is missing'
        )
        findings.errors.append(f'{part} {_INCOMPLETE} {root}: {why}')
    except Exception as error:
        # An error of a library's own data set is raised again when the run is built.
        findings.warnings.append(f'{part} could not be checked: {type(error).__name__}: {error}')


def _check_metric_files(config: Config, findings: Findings) -> None:
    """Check the annotation files of metrics, which are opened only after the first epoch."""
    for name in ('val', 'test'):
        metrics = config.get(f'{name}_evaluator') or []
        for metric in metrics if isinstance(metrics, (list, tuple)) else [metrics]:
            if not isinstance(metric, dict) or config.get(f'{name}_dataloader') is None:
                continue
            file = metric.get('ann_file')
            if isinstance(file, str) and '://' not in file and not Path(file).is_file():
                findings.errors.append(f'{name}_evaluator.ann_file {file} does not exist')


def _refuse_augmented(config: Config) -> None:
    wrapper, _ = wrapper_and_model(config.model)
    if wrapper and config.get('train_dataloader'):
        raise ValueError(
            f'model {wrapper} is for test-time augmentation and cannot be trained; train the '
            'model in its module=..., and test with --tta'
        )
