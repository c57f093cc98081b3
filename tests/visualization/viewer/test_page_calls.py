"""Validation of requests that call a function of the viewer's page."""

from __future__ import annotations

import json

import pytest

from cotap_mm.visualization.viewer.calls import BadCall, parse_call

INPUTS = {0: 1, 3: 2}
GOOD = dict(session_hash='a1', fn_index=3, data=[[0, 1], 'x'])
JSON = 'application/json'


def body(**changes):
    return json.dumps({**GOOD, **changes}).encode()


def test_only_fields_that_the_page_sends_are_kept():
    call = parse_call(
        body(
            event_data=dict(index=[1, 2.5]),
            trigger_id=7,
            batched=True,
            event_id='x',
            oauth_token='y',
            request={},
        ),
        'Application/JSON; charset=utf-8',
        INPUTS,
    )
    assert call.session == 'a1'
    assert json.loads(call.body) == dict(GOOD, event_data=dict(index=[1, 2.5]), trigger_id=7)


def test_objects_never_reach_gradio():
    """Gradio takes some objects for files of the machine."""
    data = [[0, {'path': '/etc/passwd'}], {'path': '/etc/passwd', 'meta': {'_type': 'x'}}]
    assert json.loads(parse_call(body(data=data), JSON, INPUTS).body)['data'] == [[0, None], None]


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'{',
        b'NaN',
        b'{"data":NaN}',
        b'{"data":[-Infinity]}',
        b'{"data":[1e999]}',
        b'\xff\xfe',
        b'{"data":"\\ud800"}',
        b'[' * 30_000,
        b'{"a":' * 10_000,
        b'{"a":' + b'9' * 6000 + b'}',
    ],
)
def test_invalid_json(content):
    with pytest.raises(BadCall) as bad:
        parse_call(content, JSON, INPUTS)
    assert bad.value.status == 400


@pytest.mark.parametrize(
    'changes, status',
    [
        (dict(session_hash=None), 422),
        (dict(session_hash=3), 422),
        (dict(session_hash=''), 422),
        (dict(session_hash='../x'), 422),
        (dict(session_hash='x' * 65), 422),
        (dict(session_hash='é'), 422),
        (dict(fn_index=None), 404),
        (dict(fn_index=1), 404),
        (dict(fn_index=-1), 404),
        (dict(fn_index=2**70), 404),
        (dict(fn_index='3'), 404),
        (dict(fn_index=3.0), 404),
        (dict(fn_index=False), 404),
        (dict(data=None), 422),
        (dict(data={}), 422),
        (dict(data=[1]), 422),
        (dict(data=[1, 2, 3]), 422),
        (dict(data=[[[[[[[0]]]]]], 1]), 422),
        (dict(event_data=3), 422),
        (dict(event_data=[1]), 422),
        (dict(trigger_id='x'), 422),
        (dict(trigger_id=-1), 422),
        (dict(trigger_id=2**31), 422),
    ],
)
def test_wrong_fields(changes, status):
    with pytest.raises(BadCall) as bad:
        parse_call(body(**changes), JSON, INPUTS)
    assert bad.value.status == status


def test_other_content_types_and_values():
    for kind in ('', 'text/plain', 'multipart/form-data; boundary=x', 'application/jsonx'):
        with pytest.raises(BadCall) as bad:
            parse_call(body(), kind, INPUTS)
        assert bad.value.status == 415
    for content in (b'[]', b'3', b'null', b'"x"'):
        with pytest.raises(BadCall) as bad:
            parse_call(content, JSON, INPUTS)
        assert bad.value.status == 422
