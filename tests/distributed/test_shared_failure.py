"""A failing rank aborts the others with its message."""

from __future__ import annotations

import pytest

from cotap_mm.distributed.failures import abort_all_ranks_on_error
from tests.helpers import failing_rank
from tests.helpers.forked_ranks import FORK, Ranks

forked = pytest.mark.skipif(FORK is None, reason='forks processes')


@forked
@pytest.mark.dist
def test_other_ranks_abort_with_the_message(tmp_path):
    with Ranks(failing_rank.measure, tmp_path, timeout=60) as ranks:
        codes = [ranks.exit_code(rank) for rank in (0, 1)]
    assert codes == [1, 1]  # None would be one that still waits
    assert f'error: rank 1 (process {ranks.pid(1)} on ' in ranks.log(0)
    assert 'failed: ValueError: image 1 is damaged' in ranks.log(0)
    assert 'Traceback' not in ranks.log(0) and 'ValueError: image 1 is damaged' in ranks.log(1)


@forked
@pytest.mark.dist
def test_error_on_all_ranks_is_raised_on_each(tmp_path):
    with Ranks(failing_rank.all_fail_alike, tmp_path, timeout=60) as ranks:
        codes = [ranks.exit_code(rank) for rank in (0, 1)]
    assert codes == [0, 0], ranks.log(0)


def test_single_process_is_not_affected():
    with pytest.raises(ValueError, match='^mine$'), abort_all_ranks_on_error():
        raise ValueError('mine')
