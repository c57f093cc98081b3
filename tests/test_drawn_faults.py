"""Random faults: a resumed training ends with the same bits."""

from __future__ import annotations

import os
from collections import Counter

import pytest
import torch

from tests.helpers.fault_harness.draw import FILES, KINDS, MOMENTS, draw_case
from tests.helpers.fault_harness.messages import message_problems
from tests.helpers.fault_harness.run import run_cases, summarize

FAULTS = int(os.environ.get('COTAP_FAULTS', 10))  # make test-faults: 200
SEED = int(os.environ.get('COTAP_FAULT_SEED', 1))


def test_draws_are_reproducible():
    cases = [draw_case(3, index) for index in range(400)]
    assert cases == [draw_case(3, index) for index in range(400)]
    assert cases != [draw_case(4, index) for index in range(400)]
    first = Counter(case.faults[0].kind for case in cases)
    assert set(first) == set(KINDS) and min(first.values()) > 3, first
    assert {case.faults[0].moment for case in cases} == set(MOMENTS)
    assert all(fault.victim for case in cases for fault in case.faults if fault.kind in FILES)
    assert sum(case.real for case in cases) == 20
    assert draw_case(3, 7, only='kill').faults[0].kind == 'kill'


@pytest.mark.parametrize(
    'status, output, problem',
    [
        (0, 'all is well', None),
        (75, 'SIGTERM: saved; --resume continues', None),
        (1, 'error: w/iter_2.pth is damaged; train in another --work-dir', None),
        (1, 'error: rank 1 does not answer; resume with --resume', None),
        (1, 'error: work_dirs/a is damaged', 'no way out'),
        (1, 'error: make room and resume', 'no file or rank'),
        (0, 'Traceback (most recent call last):', 'traceback'),
    ],
)
def test_messages_are_checked(status, output, problem):
    problems = message_problems(status, f'11/28 - mmengine - INFO - a/b --resume\n{output}\n')
    assert bool(problems) == bool(problem) and all(problem in text for text in problems)


@pytest.mark.dist
@pytest.mark.skipif(
    not hasattr(os, 'fork') or torch.cuda.is_available(),
    reason='forks trainings, which is possible on Linux and macOS, without CUDA',
)
def test_drawn_faults(tmp_path, capsys):
    threads = torch.get_num_threads()
    with capsys.disabled():
        print()
        try:
            outcomes = run_cases((draw_case(SEED, index) for index in range(FAULTS)), tmp_path)
        finally:
            torch.set_num_threads(threads)
        print(summarize(outcomes))
    assert any(outcome.happened for outcome in outcomes)
    failed = [outcome.describe() for outcome in outcomes if outcome.problems]
    assert not failed, '\n'.join(failed)
