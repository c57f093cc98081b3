"""Validate the body of requests that call a function of the viewer's page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn, Optional

SESSION = re.compile(r'[A-Za-z0-9_-]{1,64}')
DEEPEST = 6  # nested lists and objects; calls of the page have 3


class BadCall(ValueError):
    """A call that the page does not make.

    Args:
        status (int): HTTP status of the response.
        sentence (str): Body of the response.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Call(NamedTuple):
    """A validated call: its session, and the body to pass to Gradio."""

    session: str
    body: bytes


def parse_call(body: bytes, content_type: str, inputs: Optional[Mapping[int, int]]) -> Call:
    """Parse a call; keep only fields that the page sends, and no objects in ``data``.

    Args:
        body (bytes): JSON with ``session_hash``, ``fn_index``, ``data``, and optionally
            ``event_data`` and ``trigger_id``.
        content_type (str): Content-Type header of the request.
        inputs (mapping, optional): Functions of the page: ``fn_index`` -> number of inputs;
            None skips the check.

    Returns:
        Call: The validated call; its numbers are finite and its text is valid Unicode.

    Raises:
        BadCall: With status 415 for another content type, 400 for invalid JSON, 404 for an
            unknown function, and 422 for wrong fields.
    """
    if content_type.split(';')[0].strip().lower() != 'application/json':
        raise BadCall(415, 'The body must be application/json.')
    call = _read_json(body)
    if not isinstance(call, dict):
        raise BadCall(422, 'The body must be an object.')
    session, number, data = (call.get(key) for key in ('session_hash', 'fn_index', 'data'))
    event, trigger = call.get('event_data'), call.get('trigger_id')
    if not isinstance(session, str) or not SESSION.fullmatch(session):
        raise BadCall(422, 'session_hash must be 1 to 64 letters, digits, - or _.')
    if not _is_whole(number) or inputs is not None and number not in inputs:
        raise BadCall(404, 'Unknown function.')
    if not isinstance(data, list) or inputs is not None and len(data) != inputs[number]:
        raise BadCall(422, 'data must be a list with one value for each input.')
    if event is not None and not isinstance(event, dict):
        raise BadCall(422, 'event_data must be an object.')
    if trigger is not None and not _is_whole(trigger):
        raise BadCall(422, 'trigger_id must be a non-negative integer.')
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
        value = json.loads(body.decode('utf-8'), parse_constant=refuse, parse_float=finite)
        json.dumps(value, ensure_ascii=False).encode('utf-8')  # fails for half a surrogate pair
    except (ValueError, RecursionError):
        raise BadCall(400, 'The body must be JSON.') from None
    if _depth(value) > DEEPEST:
        raise BadCall(422, 'The body is nested too deeply.')
    return value


def _plain(value: Any) -> Any:
    """Replace objects in nested lists by None: Gradio would take some of them for files."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, dict) else value


def _depth(value: Any) -> int:
    """Return the nesting depth, computed without recursion."""
    depth, level = 0, [value]
    while True:
        inner: list[Any] = []
        containers = [item for item in level if isinstance(item, (list, dict))]
        if not containers:
            return depth
        for item in containers:
            inner.extend(item.values() if isinstance(item, dict) else item)
        depth, level = depth + 1, inner


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
