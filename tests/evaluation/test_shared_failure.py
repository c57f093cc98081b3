"""One rank that fails ends the others with a sentence."""
import multiprocessing
import time

import pytest
from evaluation import failing_rank
from rank_work import free_port

from cotap_mm.evaluation.shared_failure import ended_together

pytestmark = pytest.mark.dist


def run(work, folder):
    """Exit codes and what was printed, of two ranks."""
    context = multiprocessing.get_context('spawn')
    port = free_port()
    processes = [context.Process(target=failing_rank.entry, args=(rank, port, str(folder), work))
                 for rank in (0, 1)]
    for process in processes:
        process.start()
    end = time.monotonic() + 120
    try:
        for process in processes:
            process.join(max(0, end - time.monotonic()))
        codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
    return codes, [(folder / f'{rank}.log').read_text() for rank in (0, 1)]


def test_the_others_hear_of_it_and_end(tmp_path):
    codes, logs = run(failing_rank.measure, tmp_path)
    assert codes == [1, 1]  # None would be one that still waits
    assert 'error: process 1 failed, ValueError: image 1 is damaged' in logs[0]
    assert 'Traceback' not in logs[0] and 'ValueError: image 1 is damaged' in logs[1]


def test_a_mistake_of_all_ranks_stays_an_error_of_each(tmp_path):
    codes, logs = run(failing_rank.all_fail_alike, tmp_path)
    assert codes == [0, 0], logs


def test_one_process_is_left_alone():
    with pytest.raises(ValueError, match='^mine$'), ended_together():
        raise ValueError('mine')
