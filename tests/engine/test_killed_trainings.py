"""Kill a training repeatedly; it always resumes from a valid checkpoint."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import statistics
import sys
import time

import pytest
import torch
from mmengine.config import Config

from cotap_mm.engine import AtomicCheckpointHook
from cotap_mm.engine.resume.checkpoints import checkpoint_error, newest_good_checkpoint
from cotap_mm.files.atomic_write import UNFINISHED
from tests.engine.resume.test_exact_resume import assert_same, saved
from tests.helpers import resume_work

# make test-faults: 200. For other faults at any moment, see tests/helpers/fault_harness.
KILLS = int(os.environ.get('COTAP_KILLS', 10))
ITERS = 21  # per training; 200 kills need several trainings
INTERVAL = 2  # between checkpoints, as in resume_work
PATIENCE = 120  # seconds without a report after which a training has hung
OPTIONS = {
    'default_hooks.checkpoint.max_keep_ckpts': 1,  # it must be kept until the next one is complete
    'hooks': [
        dict(type='NonFiniteHook'),
        dict(type='PreemptionHook'),
        dict(type='ReportHook', _scope_='mmengine'),
    ],
}

pytestmark = pytest.mark.skipif(
    not hasattr(os, 'fork') or torch.cuda.is_available(),
    reason='forks trainings, which is possible on Linux and macOS and without CUDA',
)


@pytest.fixture
def whole(tmp_path, monkeypatch):
    """Train without a kill; return the folder, and the seconds of a save.

    It imports what a training imports late, for all the forks that follow.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
    # Formatting the config takes most of the start-up time.
    monkeypatch.setattr(Config, 'pretty_text', property(lambda self: repr(self._cfg_dict)))
    seconds, save = [], AtomicCheckpointHook.after_train_iter

    def timed(*arguments, **options):
        start = time.monotonic()
        save(*arguments, **options)
        seconds.append(time.monotonic() - start)

    monkeypatch.setattr(resume_work.ReportHook, 'tell', lambda iteration: None)
    monkeypatch.setattr(AtomicCheckpointHook, 'after_train_iter', timed)
    resume_work.train(tmp_path / 'whole', ITERS, **OPTIONS)
    monkeypatch.setattr(AtomicCheckpointHook, 'after_train_iter', save)
    yield tmp_path / 'whole', statistics.median(seconds[INTERVAL - 1 :: INTERVAL])
    torch.set_num_threads(threads)


def train_in_a_process(folder, num_workers, pipe):
    """One attempt: what a job script runs, whatever happened before."""
    sys.stdout = sys.stderr = open(folder.with_suffix('.out'), 'a')
    resume_work.ReportHook.tell = pipe.send
    resume_work.train(folder, ITERS, resume=True, num_workers=num_workers, **OPTIONS)


class Attempt:
    """A training in its own process; ``reports`` are the iterations that it has reported."""

    def __init__(self, folder, num_workers):
        context = multiprocessing.get_context('fork')
        self.pipe, sender = context.Pipe(duplex=False)
        self.process = context.Process(
            target=train_in_a_process, args=(folder, num_workers, sender)
        )
        self.process.start()
        sender.close()
        self.folder, self.reports = folder, []

    def hear(self, seconds):
        """Receive one report within ``seconds``; return whether there was one."""
        try:
            if not self.pipe.poll(seconds):
                return False
            self.reports.append(self.pipe.recv())
            return True
        except (EOFError, OSError):  # it has exited, perhaps while writing
            return False

    def kill_after(self, num_reports, delay, while_writing=False):
        """Kill it after some reports, or in the next write; return False if it finished before."""
        while len(self.reports) < num_reports and self.hear(PATIENCE):
            pass
        if len(self.reports) < num_reports:
            self.process.join(PATIENCE)
            hangs = self.process.is_alive()
        else:
            hangs = False
            while (
                while_writing
                and self.process.is_alive()
                and not unfinished(self.folder)
                and not self.hear(0)
            ):
                pass
            time.sleep(delay)
        self.process.kill()
        # With a timeout it would also wait for the loader worker, which exits 5 s later.
        self.process.join()
        while self.hear(0):
            pass
        self.pipe.close()
        output = self.folder.with_suffix('.out').read_text()[-3000:]
        assert not hangs and self.process.exitcode in (0, -signal.SIGKILL), output
        return self.process.exitcode != 0


def unfinished(folder, process='*'):
    """Temporary files of a process, whose number is in their names."""
    return list(folder.glob(f'{UNFINISHED}{process}-*'))


def newest_iteration(folder):
    path = newest_good_checkpoint(folder)
    return 0 if path is None else torch.load(path, weights_only=True)['meta']['iter']


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed(tmp_path, whole, capsys):
    """A third of the kills hit a checkpoint that is being written, a third are close to a save."""
    (whole_folder, save_time), draw = whole, random.Random(1)
    kills = runs = within_saves = again = won = 0
    while kills < KILLS:
        folder, kept, is_running = tmp_path / f'killed{runs}', 0, True
        while is_running:
            # An iteration is reported before it is saved; the first report of an attempt is an
            # odd iteration, which is not saved. Writing the file is a tenth of a save.
            reports, latest, while_writing = draw.choice(
                [
                    (INTERVAL, save_time / 10, True),
                    (INTERVAL, 2 * save_time, False),
                    (draw.randint(0, 2 * INTERVAL), 2 * save_time, False),
                ]
            )
            # Draws that hit many saves keep few iterations; then there are more kills.
            if kills >= (KILLS if won >= KILLS / 4 else 3 * KILLS):
                reports = ITERS + 1
            current = Attempt(folder, num_workers=int(kills % 5 == 4))
            is_running = current.kill_after(reports, draw.uniform(0, latest), while_writing)
            done = max([kept, *current.reports])
            assert current.reports[:1] in ([], [kept + 1]), 'it went on from another iteration'
            assert current.reports == list(range(kept + 1, done + 1))
            if not is_running:
                break
            kills += 1
            within_saves += bool(unfinished(folder, current.process.pid))
            now = newest_iteration(folder)
            assert max(kept, done - INTERVAL) <= now <= done, (
                f'kill {kills}: {done} iterations were done, {kept} saved before, {now} now'
            )
            again, won, kept = again + done - now, won + now - kept, now
        assert not unfinished(folder)
        assert all(checkpoint_error(path) is None for path in folder.glob('iter_*.pth'))
        assert_same(saved(folder, ITERS), saved(whole_folder, ITERS))
        runs += 1
    with capsys.disabled():
        print(
            f'\n{kills} kills of {runs} trainings, {within_saves} of them while a checkpoint was '
            f'being written; between kills {won} iterations were kept, {again} done again'
        )
    assert within_saves > 0, 'no kill hit the writing, so nothing was tested'
    assert won >= KILLS / 4, 'killed trainings hardly go on'
