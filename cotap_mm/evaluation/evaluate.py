"""Run any protocol by its name."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Callable, NamedTuple, Optional

from cotap_mm.distributed.failures import abort_all_ranks_on_error
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.encoders.several import group_by_network
from cotap_mm.environment import describe_versions
from cotap_mm.evaluation.data.evaluation_data import EvaluationData
from cotap_mm.evaluation.data.labeled_set import (
    READING_DEFAULTS,
    LabeledSet,
    labeled_set_parameters,
)
from cotap_mm.evaluation.protocols.correspondence import correspondence
from cotap_mm.evaluation.protocols.dense_retrieval import dense_retrieval
from cotap_mm.evaluation.protocols.dispersion import dispersion
from cotap_mm.evaluation.protocols.foreground import foreground
from cotap_mm.evaluation.protocols.knn import knn_classification
from cotap_mm.evaluation.protocols.linear_classification import linear_classification
from cotap_mm.evaluation.protocols.linear_segmentation import linear_segmentation
from cotap_mm.evaluation.protocols.overclustering import overclustering
from cotap_mm.evaluation.protocols.video_segmentation import label_propagation

from .class_presence import class_names
from .settings import check_settings, defaults_of


class Protocol(NamedTuple):
    """A way to evaluate an encoder.

    Attributes:
        measure (Callable): The function; its defaults are the protocol's fixed settings.
        kind (str): Kind of data it needs, see :class:`EvaluationData`.
        learns (bool): Whether it also needs training images.
        headline (str): Key of the score that backbones are compared by, in percent.
        source (str): Publication of the protocol.
        shares_passes (bool): Whether ``measure`` also accepts a list of encoders, which it measures
            in one pass over the images. Defaults to False.
    """

    measure: Callable[..., dict[str, Any]]
    kind: str
    learns: bool
    headline: str
    source: str
    shares_passes: bool = False


_COTAP = 'https://arxiv.org/abs/2509.09429'
PROTOCOLS = {
    'dense-retrieval': Protocol(
        dense_retrieval, 'segmentation', True, 'mIoU', 'https://arxiv.org/abs/2306.01667', True
    ),
    'linear-seg': Protocol(linear_segmentation, 'segmentation', True, 'mIoU', _COTAP),
    'overclustering': Protocol(
        overclustering, 'segmentation', False, 'mIoU_K500', 'https://arxiv.org/abs/2204.13101'
    ),
    'dispersion': Protocol(dispersion, 'segmentation', False, 'within_instance', _COTAP),
    'foreground': Protocol(
        foreground, 'segmentation', False, 'jaccard', 'https://arxiv.org/abs/2104.14294'
    ),
    'correspondence': Protocol(correspondence, 'segmentation', False, 'accuracy', 'ours'),
    'knn': Protocol(
        knn_classification, 'classification', True, 'top1', 'https://arxiv.org/abs/2104.14294'
    ),
    'linear': Protocol(linear_classification, 'classification', True, 'top1', _COTAP),
    'video': Protocol(label_propagation, 'video', False, 'J&F', 'https://arxiv.org/abs/2104.14294'),
}


@dataclass
class Result:
    """Scores of one backbone in one protocol, with everything needed to reproduce them.

    Attributes:
        protocol (str): Name, with the variant if there are several.
        metric (str): Key of the headline in ``scores``.
        value (float): The headline, in percent.
        backbone (str): Name for tables.
        data (str): Name of the data.
        scores (dict): All scores.
        parameters (dict): All settings of the protocol, including defaults.
        weights (str): Hash of the network's weights.
        images (dict): Number of images (or clips) of train and val.
        versions (dict): Versions of Python, torch and cotap_mm.
        source (str): Publication of the protocol.
        seconds (float): Wall time; of backbones that were measured together, that of all.
        date (str): Date as year-month-day.
    """

    protocol: str
    metric: str
    value: float
    backbone: str
    data: str
    scores: dict[str, Any]
    parameters: dict[str, Any]
    weights: str
    images: dict[str, int]
    source: str
    seconds: float
    versions: dict[str, str] = field(default_factory=describe_versions)
    date: str = field(default_factory=lambda: time.strftime('%Y-%m-%d'))

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values; NaN (a class that never occurs) becomes None."""
        return _plain(asdict(self))


def evaluate(
    encoder: Encoder, data: EvaluationData, protocol: str, name: str = 'backbone', **options: Any
) -> Result:
    """Evaluate an encoder with one protocol; see :func:`evaluate_each` for several encoders.

    An error on one rank aborts all ranks, see :func:`abort_all_ranks_on_error`.

    Args:
        encoder (Encoder): The encoder, see :func:`cotap_mm.load`.
        data (EvaluationData): The data, see :func:`load_data`.
        protocol (str): One of ``PROTOCOLS``.
        name (str): Name of the backbone, for tables. Defaults to 'backbone'.
        **options: Settings of the protocol that differ from its defaults.

    Returns:
        Result: The scores and all settings.

    Raises:
        ValueError: If the protocol is unknown, an option is unknown, of a wrong type or out of
            range, the data are of another kind, or too few classes occur in their labels.
    """
    return replace(evaluate_each([encoder], data, protocol, **options)[0], backbone=name)


def evaluate_each(
    encoders: Sequence[Encoder], data: EvaluationData, protocol: str, **options: Any
) -> list[Result]:
    """Evaluate several encoders with one protocol; each result equals that of :func:`evaluate`.

    If the protocol ``shares_passes``, the outputs of one network are measured in one pass over the
    images. All other encoders are measured one after the other.

    Args:
        encoders (sequence): The encoders.
        data (EvaluationData): See :func:`evaluate`.
        protocol (str): See :func:`evaluate`.
        **options: See :func:`evaluate`.

    Returns:
        list[Result]: One result per encoder, in their order, with the name 'backbone'.

    Raises:
        ValueError: See :func:`evaluate`.
    """
    chosen = find_protocol(protocol)
    _check_data(data, protocol)
    parts = [data.train, data.val] if chosen.learns else [data.val]
    parameters, given, inputs = _arguments_of(data, protocol, parts, options)
    variant = parameters.get('variant')
    weights = {encoder.module: encoder.weights_hash() for encoder in encoders}
    results: dict[int, Result] = {}
    singles = [[index] for index in range(len(encoders))]
    for group in group_by_network(encoders) if chosen.shares_passes else singles:
        measured: Any = [encoders[index] for index in group]
        start = time.monotonic()
        with abort_all_ranks_on_error(), class_names(data.classes):
            scores = chosen.measure(measured if len(group) > 1 else measured[0], *inputs, **given)
        seconds = round(time.monotonic() - start, 1)
        for index, own in zip(group, scores if len(group) > 1 else [scores]):
            headline = chosen.headline if chosen.headline in own else next(iter(own))
            results[index] = Result(
                protocol=f'{protocol}/{variant}' if variant else protocol,
                metric=headline,
                value=float(own[headline]),
                backbone='backbone',
                data=data.name,
                scores=own,
                parameters=dict(parameters),
                weights=weights[encoders[index].module],
                images=dict(zip(['train', 'val'][-len(parts) :], map(len, parts))),
                source=chosen.source,
                seconds=seconds,
            )
    return [results[index] for index in range(len(encoders))]


def _check_data(data: EvaluationData, protocol: str) -> None:
    """Raise a ValueError if a protocol cannot use the data."""
    chosen = find_protocol(protocol)
    if data.kind != chosen.kind:
        fitting = [key for key, other in PROTOCOLS.items() if other.kind == data.kind]
        raise ValueError(
            f'{protocol} needs data for {chosen.kind}, {data.name} is for '
            f'{data.kind}; protocols for it are {", ".join(fitting)}'
        )
    if chosen.learns and data.train is None:
        raise ValueError(
            f'{protocol} learns from training images, and {data.name} has none; '
            'expected images/train and labels/train'
        )


def _arguments_of(
    data: EvaluationData, protocol: str, parts: list[Any], options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """All parameters of a measurement, for the record; its keyword arguments and data sets."""
    settings = settings_of(protocol)
    given: dict[str, Any] = {}
    if 'foreground_classes' in settings and data.foreground:
        given['foreground_classes'] = list(data.foreground)
    given.update(check_options(protocol, options))
    parameters = {**settings, **given}
    inputs = parts
    if labeled_set_parameters(find_protocol(protocol).measure):
        num_classes = parameters['num_classes'] = len(data.classes)
        reading = {key: given.pop(key) for key in READING_DEFAULTS if key in given}
        inputs = [LabeledSet(part, num_classes, **reading) for part in parts]
    return parameters, given, inputs


def find_protocol(name: str) -> Protocol:
    """Look up a protocol by name; ``ValueError`` lists the known names."""
    if name not in PROTOCOLS:
        raise ValueError(f'protocol must be one of {", ".join(PROTOCOLS)}, got {name!r}')
    return PROTOCOLS[name]


def settings_of(protocol: str) -> dict[str, Any]:
    """Settings of a protocol with their defaults."""
    return defaults_of(find_protocol(protocol).measure)


def check_options(protocol: str, options: dict[str, Any]) -> dict[str, Any]:
    """Convert settings of a protocol to the annotated types, see :func:`check_settings`."""
    return check_settings(protocol, find_protocol(protocol).measure, options)


def headline_rows(results: Sequence[Result]) -> list[list[str]]:
    """Arrange headlines in a table.

    Returns:
        list: The headings, then one row per backbone with one column per protocol and data set.
    """
    columns = list(dict.fromkeys((r.protocol, r.data, r.metric) for r in results))
    rows = [['backbone', *(f'{protocol} {metric}, {data}' for protocol, data, metric in columns)]]
    for name in dict.fromkeys(r.backbone for r in results):
        cells = {
            (r.protocol, r.data, r.metric): _cell(r.value) for r in results if r.backbone == name
        }
        rows.append([name, *(cells.get(column, '-') for column in columns)])
    return rows


def _cell(value: Optional[float]) -> str:
    """Format with two decimals; a dash for NaN, which is None in JSON files."""
    return '-' if value is None or math.isnan(value) else f'{value:.2f}'


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
