"""Every protocol by name, and one function that runs them."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Callable, NamedTuple, Optional

from cotap_mm.distributed.failures import abort_all_ranks_on_error
from cotap_mm.encoders.encoder import Encoder
from cotap_mm.environment import describe_versions
from cotap_mm.evaluation.data.load import EvaluationData
from cotap_mm.evaluation.protocols.classification import knn_classification, linear_classification
from cotap_mm.evaluation.protocols.correspondence import correspondence
from cotap_mm.evaluation.protocols.dense_retrieval import dense_retrieval
from cotap_mm.evaluation.protocols.dispersion import dispersion
from cotap_mm.evaluation.protocols.foreground import foreground
from cotap_mm.evaluation.protocols.linear_segmentation import linear_segmentation
from cotap_mm.evaluation.protocols.overclustering import overclustering
from cotap_mm.evaluation.protocols.video_segmentation import label_propagation

from .class_presence import class_names
from .settings import check_settings, defaults_of


class Protocol(NamedTuple):
    """One way to measure an encoder.

    Attributes:
        measure (Callable): The function; its defaults are the protocol's fixed settings.
        kind (str): Kind of data it needs, see :class:`EvaluationData`.
        learns (bool): Whether it needs training images as well.
        headline (str): Key of the score to compare by, in per cent.
        source (str): Where it is from.
    """

    measure: Callable[..., dict[str, Any]]
    kind: str
    learns: bool
    headline: str
    source: str


_COTAP = 'https://arxiv.org/abs/2509.09429'
PROTOCOLS = {
    'dense-retrieval': Protocol(
        dense_retrieval, 'segmentation', True, 'mIoU', 'https://arxiv.org/abs/2306.01667'
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
    """What one protocol found for one backbone, with all that is needed to repeat it.

    Attributes:
        protocol (str): Name, with the variant where there are several.
        metric (str): Which of ``scores`` is the headline.
        value (float): The headline, in per cent.
        backbone (str): Name for tables.
        data (str): Name of the data.
        scores (dict): All scores.
        parameters (dict): All settings of the protocol, defaults too.
        weights (str): Hash of the network's weights.
        images (dict): Number of images (or clips) of each part.
        versions (dict): Of Python, torch and cotap_mm.
        source (str): Of the protocol.
        seconds (float): Wall time.
        date (str): Year-month-day.
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
        """Plain values; what is not a number (a class that never occurs) is None."""
        return _plain(asdict(self))


def evaluate(
    encoder: Encoder, data: EvaluationData, protocol: str, name: str = 'backbone', **options: Any
) -> Result:
    """Measure an encoder by one protocol.

    Args:
        encoder (Encoder): What to measure; see :func:`cotap_mm.load`.
        data (EvaluationData): What to measure on; see :func:`load_data`.
        protocol (str): One of ``PROTOCOLS``.
        name (str): Of the backbone, for tables.
        **options: Settings of the protocol that differ from its defaults.

    Returns:
        Result: The scores and all settings.

    Raises:
        ValueError: If the protocol is unknown, an option is unknown, of a wrong type or out of
            range, the data are of another kind, or their labels show too few classes.

    An error on one of several ranks ends them all, see :func:`abort_all_ranks_on_error`.
    """
    chosen = find_protocol(protocol)
    if data.kind != chosen.kind:
        fitting = [each for each, found in PROTOCOLS.items() if found.kind == data.kind]
        raise ValueError(
            f'{protocol} needs data for {chosen.kind}, {data.name} is for '
            f'{data.kind}; with it go {", ".join(fitting)}'
        )
    if chosen.learns and data.train is None:
        raise ValueError(
            f'{protocol} learns from training images, and {data.name} has none; '
            'expected images/train and labels/train'
        )
    parts = [data.train, data.val] if chosen.learns else [data.val]
    given: dict[str, Any] = {}
    known = settings_of(protocol)
    if 'num_classes' in inspect.signature(chosen.measure).parameters:
        given['num_classes'] = len(data.classes)
    if 'foreground_classes' in known and data.foreground:
        given['foreground_classes'] = list(data.foreground)
    given.update(check_options(protocol, options))
    start = time.monotonic()
    with abort_all_ranks_on_error(), class_names(data.classes):
        scores = chosen.measure(encoder, *parts, **given)
    seconds = time.monotonic() - start
    headline = chosen.headline if chosen.headline in scores else next(iter(scores))
    variant = {**known, **given}.get('variant')
    return Result(
        protocol=f'{protocol}/{variant}' if variant else protocol,
        metric=headline,
        value=float(scores[headline]),
        backbone=name,
        data=data.name,
        scores=scores,
        parameters={**known, **given},
        weights=encoder.weights_hash(),
        images=dict(zip(['train', 'val'][-len(parts) :], map(len, parts))),
        source=chosen.source,
        seconds=round(seconds, 1),
    )


def find_protocol(name: str) -> Protocol:
    """A protocol by name; ``ValueError`` lists the known ones."""
    if name not in PROTOCOLS:
        raise ValueError(f'protocol must be one of {", ".join(PROTOCOLS)}, got {name!r}')
    return PROTOCOLS[name]


def settings_of(protocol: str) -> dict[str, Any]:
    """Options of a protocol with their defaults."""
    return defaults_of(find_protocol(protocol).measure)


def check_options(protocol: str, options: dict[str, Any]) -> dict[str, Any]:
    """Settings of a protocol in their annotated types, see :func:`~.settings.check_settings`."""
    return check_settings(protocol, find_protocol(protocol).measure, options)


def table(results: Sequence[Result]) -> list[list[str]]:
    """Headings, then a row for each backbone with the headline of each protocol and data set."""
    columns = list(dict.fromkeys((each.protocol, each.data, each.metric) for each in results))
    rows = [['backbone', *(f'{protocol} {metric}, {data}' for protocol, data, metric in columns)]]
    for name in dict.fromkeys(each.backbone for each in results):
        cells = {
            (each.protocol, each.data, each.metric): _cell(each.value)
            for each in results
            if each.backbone == name
        }
        rows.append([name, *(cells.get(column, '-') for column in columns)])
    return rows


def _cell(value: Optional[float]) -> str:
    """Two decimals; a dash for what is not a number, which a JSON holds as None."""
    return '-' if value is None or math.isnan(value) else f'{value:.2f}'


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
