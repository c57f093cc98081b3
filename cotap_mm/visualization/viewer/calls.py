"""Check the body of a request that calls a function of the viewer's page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn, Optional

SESSION = re.compile(r'[A-Za-z0-9_-]{1,64}')
DEEPEST = 6  # nested lists and objects; the page's own calls have 3


class BadCall(ValueError):
    """A call that the page does not make.

    Args:
        status (int): HTTP status of the answer.
        sentence (str): Body of the answer.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Call(NamedTuple):
    """A checked call: who makes it, and the body that Gradio gets to see."""

    session: str
    body: bytes


def parse_call(body: bytes, content_type: str, inputs: Optional[Mapping[int, int]]) -> Call:
    """Read a call; only what the page sends is kept of it, and no objects in ``data``.

    Args:
        body (bytes): JSON with ``session_hash``, ``fn_index``, ``data``, and optionally
            ``event_data`` and ``trigger_id``.
        content_type (str): Header of the request.
        inputs (mapping, optional): Functions of the page: ``fn_index`` -> number of inputs;
            None if they are not known.

    Returns:
        Call: With finite numbers and valid Unicode only.

    Raises:
        BadCall: With status 415 for another content type, 400 for what is not JSON, 404 for
            an unknown function, and 422 for wrong fields.
    """
    if content_type.split(';')[0].strip().lower() != 'application/json':
        raise BadCall(415, 'The body must be application/json.')
    call = _read_json(body)
    if not isinstance(call, dict):
        raise BadCall(422, 'The body must be an object.')
    session, number, data = (call.get(key) for key in ('session_hash', 'fn_index', 'data'))
    event, trigger = call.get('event_data'), call.get('trigger_id')
    if not isinstance(session, str) or not SESSION.fullmatch(session):
        raise BadCall(422, 'session_hash must be 1 to 64 letters and digits.')
    if not _is_whole(number) or inputs is not None and number not in inputs:
        raise BadCall(404, 'There is no such function.')
    if not isinstance(data, list) or inputs is not None and len(data) != inputs[number]:
        raise BadCall(422, 'data must be a list with one value for each input.')
    if event is not None and not isinstance(event, dict):
        raise BadCall(422, 'event_data must be an object.')
    if trigger is not None and not _is_whole(trigger):
        raise BadCall(422, 'trigger_id must be a whole number.')
    kept: dict[str, Any] = dict(
        session_hash=session,
        fn_index=number,
        data=_plain(data),
        event_data=event,
        trigger_id=trigger,
    )
    return Call(session, json.dumps(kept).encode())


def _read_json(body: bytes) -> Any:
    def refuse(text: str) -> NoReturn:
        raise ValueError(f'{text} is not JSON')

    def finite(text: str) -> float:
        number = float(text)
        return number if math.isfinite(number) else refuse(text)

    try:
        found = json.loads(body.decode('utf-8'), parse_constant=refuse, parse_float=finite)
        json.dumps(found, ensure_ascii=False).encode('utf-8')  # fails for half a surrogate pair
    except (ValueError, RecursionError):
        raise BadCall(400, 'The body must be JSON.') from None
    if _depth(found) > DEEPEST:
        raise BadCall(422, 'The body is nested too deeply.')
    return found


def _plain(value: Any) -> Any:
    """Lists of plain values; an object, which may stand for a file to Gradio, becomes None."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, dict) else value


def _depth(value: Any) -> int:
    """Number of nested containers, without recursion."""
    depth, level = 0, [value]
    while True:
        inner: list[Any] = []
        containers = [each for each in level if isinstance(each, (list, dict))]
        if not containers:
            return depth
        for each in containers:
            inner.extend(each.values() if isinstance(each, dict) else each)
        depth, level = depth + 1, inner


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
