"""Results of ``cotap evaluate`` for a model card."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Union

_KEYS = ('protocol', 'metric', 'value', 'backbone', 'data', 'weights')


class ReportedResult(NamedTuple):
    """A score of one network.

    Attributes:
        protocol (str): Name of the protocol, with its variant.
        metric (str): Name of the score.
        value (float): The score, in percent.
        data (str): Name of the data.
        network (str): Title of the network.
        is_own (bool): Whether it is the published network, with all of its parts.
        source (str): Publication of the protocol.
    """

    protocol: str
    metric: str
    value: float
    data: str
    network: str
    is_own: bool
    source: str


def read_results(
    files: Iterable[Union[str, Path]], titles: Mapping[str, str]
) -> list[ReportedResult]:
    """Read result files, and find out which of them belong to the published network.

    Args:
        files (Iterable[str | Path]): JSON files of ``cotap evaluate``, also those of networks to
            compare with.
        titles (Mapping[str, str]): Hash of the weights -> title, for the published network and for
            its variants; the first one is the network itself.

    Returns:
        list[ReportedResult]: In the order of the files; results without a value are skipped.

    Raises:
        ValueError: If a file is not a result, or none belongs to the published network.
    """
    own = next(iter(titles), '')
    results = []
    for file in files:
        content = _read(Path(file))
        if content['value'] is None:  # a class that never occurs
            continue
        results.append(
            ReportedResult(
                protocol=str(content['protocol']),
                metric=str(content['metric']),
                value=float(content['value']),
                data=str(content['data']),
                network=titles.get(content['weights'], str(content['backbone'])),
                is_own=content['weights'] == own,
                source=str(content.get('source', '')),
            )
        )
    if results and not any(result.is_own for result in results):
        raise ValueError(
            f'none of the {len(results)} results is of this checkpoint (weights {own}); evaluate '
            'the checkpoint that is published, with the same --network'
        )
    return results


def results_table(results: list[ReportedResult]) -> list[list[str]]:
    """Arrange results with one row per protocol and one column per network, own ones first."""
    networks = list(dict.fromkeys(r.network for r in sorted(results, key=lambda r: not r.is_own)))
    rows = [['protocol', 'data', 'metric', *networks]]
    for key in dict.fromkeys((r.protocol, r.data, r.metric) for r in results):
        values = {r.network: r.value for r in results if (r.protocol, r.data, r.metric) == key}
        cells = [f'{values[name]:.2f}' if name in values else '-' for name in networks]
        rows.append([*key, *cells])
    return rows


def model_index(name: str, results: list[ReportedResult]) -> list[dict[str, Any]]:
    """Convert the results of the published network to the ``model-index`` of a model card."""
    task = dict(type='image-feature-extraction', name='Image Feature Extraction')
    entries = [
        dict(
            task=task,
            dataset=dict(type=r.data, name=r.data),
            metrics=[dict(type=r.metric, value=round(r.value, 2), name=f'{r.protocol} {r.metric}')],
        )
        for r in results
        if r.is_own
    ]
    return [dict(name=name, results=entries)] if entries else []


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
        missing = [key for key in _KEYS if key not in content]
        number = content.get('value')
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f'{file} is not a result of cotap evaluate ({error})') from error
    if missing or not isinstance(number, (int, float, type(None))):
        raise ValueError(
            f'{file} is not a result of cotap evaluate (it lacks {", ".join(missing) or "a value"})'
        )
    return content
