"""Run a case until the training finishes, and check the result."""

from __future__ import annotations

import importlib
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.engine.resume.test_exact_resume import assert_same, saved
from tests.helpers.fault_harness import damage, real_commands
from tests.helpers.fault_harness.draw import CLOCK, DISK, FILES, Case, Fault
from tests.helpers.fault_harness.inject import free_space, is_a_kill
from tests.helpers.fault_harness.messages import message_problems, of_interest, without_logs
from tests.helpers.fault_harness.processes import Ranks, Try, mount_small, unmount
from tests.helpers.fault_harness.toy_training import (
    INTERVAL,
    ITERS,
    WORK,
    command_line,
    copy_inputs,
    write_inputs,
)

MAX_TRIES = 6
#: Possible outcomes; the first two are correct.
SAME, CHANGED, LOST, HUNG, EXECUTED, UNCLEAR, LEFTOVERS = (
    'same bits',
    'finished on changed data',
    'lost',
    'hung',
    'executed',
    'unclear message',
    'leftovers',
)
_LEFTOVERS = ('unfinished-*', '*.lock', '.lock', '*.features.*', '*.rows.*', '*.failed', '*.part')


@dataclass
class Outcome:
    """Outcome of a case.

    Attributes:
        case (Case): The case.
        happened (list[str]): Where its faults happened; empty if the training ended before.
        problems (list[tuple[str, str]]): Column of the summary and a sentence for each problem.
        tries (list[Try]): All starts of the command.
        data_changed (bool): Whether the fault changed the data, so that the result may differ.
    """

    case: Case
    happened: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    tries: list[Try] = field(default_factory=list)
    data_changed: bool = False

    @property
    def column(self) -> str:
        """Column of the summary in which the case counts."""
        if self.problems:
            return self.problems[0][0]
        return CHANGED if self.data_changed else SAME

    def describe(self) -> str:
        """Everything that is needed to investigate a failure."""
        lines = [str(self.case), *(f'  happened: {where}' for where in self.happened)]
        lines += [f'  {column}: {sentence}' for column, sentence in self.problems]
        for number, attempt in enumerate(self.tries):
            lines.append(
                f'  try {number}: {attempt.seconds:.1f} s, statuses {attempt.statuses}, '
                f'iteration {attempt.done}'
            )
            for rank, (status, output) in enumerate(zip(attempt.statuses, attempt.outputs)):
                lines += [
                    f'    rank {rank}| {line[:300]}'
                    for line in of_interest(status, output, attempt.hung)
                    if self.problems
                ]
        return '\n'.join([*lines, f'  {self.case.replay}'])


class References:
    """Uninterrupted runs, one for each way to train; run on first use.

    Args:
        folder (Path): Folder for these runs and for the inputs of all cases.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: dict[tuple[int, bool, bool], tuple[dict, list[dict]]] = {}
        self.real_seconds: dict[int, float] = {}
        torch.set_num_threads(1)  # threads of OpenMP would not survive a fork
        write_inputs(folder / 'inputs')
        self.result(1, False)

    def result(self, world: int, packed: bool) -> dict:
        """Last checkpoint of a run whose loader has no workers."""
        return self._get(world, packed, 0)[0]

    def counts(self, case: Case) -> list[dict]:
        """Events of each rank in a run with as many loader workers as the case has."""
        return self._get(case.world, case.packed, case.workers)[1]

    def _get(self, world: int, packed: bool, workers: int) -> tuple[dict, list[dict]]:
        key = world, packed, bool(workers)
        if key not in self._runs:
            name = f'{world}-{"packed" if packed else "folder"}-{workers}'
            copy_inputs(self.folder / 'inputs', self.folder / name)
            done = Ranks(
                command_line(self.folder / name, packed, workers, False),
                self.folder / name,
                world,
                'reference',
            ).run()
            assert done.statuses == [0] * world, '\n'.join(done.outputs)[-5000:]
            for (
                module
            ) in done.modules:  # late imports of a training, so that forks have them already
                if module not in sys.modules and '__main__' not in module:
                    try:
                        importlib.import_module(module)
                    except Exception:  # created dynamically, or of one process only
                        pass
            self._runs[key] = _result(self.folder / name / WORK), done.counts
        return self._runs[key]


def run_case(case: Case, references: References, folder: Path) -> Outcome:
    """Train with faults, resume with the plain command, and check the result.

    Args:
        case (Case): The case.
        references (References): Inputs and uninterrupted runs.
        folder (Path): Folder of this case; kept if it fails, else deleted.

    Returns:
        Outcome: Outcome with all problems.
    """
    copy_inputs(references.folder / 'inputs', folder)
    has_tmpfs = any(fault.kind == 'full tmpfs' for fault in case.faults) and mount_small(
        folder / WORK
    )
    try:
        outcome = _Trial(case, references, folder, has_tmpfs).run()
    finally:
        if has_tmpfs:
            unmount(folder / WORK)
    if not outcome.problems:
        shutil.rmtree(folder)
    return outcome


class _Trial:
    """All tries of one case."""

    def __init__(self, case: Case, references: References, folder: Path, has_tmpfs: bool) -> None:
        self.case, self.references, self.folder = case, references, folder
        self.work, self.has_tmpfs = folder / WORK, has_tmpfs
        self.outcome = Outcome(case)
        self.victim: Path | None = None
        self.backup: bytes | None = None
        self.clock_is_back = self.was_remedied = False
        self.bad_images: list[Path] = []
        self.damaged_from = 0  # number of the first try with a damaged file
        self.kept = 0  # iteration of the newest checkpoint

    def run(self) -> Outcome:
        faults = list(self.case.faults)
        is_done = False
        for number in range(MAX_TRIES):
            fault = faults.pop(0) if faults else None
            attempt = self._start(number, fault)
            self.outcome.tries.append(attempt)
            self.outcome.happened += attempt.happened
            if attempt.hung:
                self._problem(HUNG, f'try {number} did not finish')
            self._check_messages(number, attempt, fault if attempt.happened else None)
            if fault is not None and attempt.happened:
                self._after(fault, attempt)
            is_done = attempt.statuses == [0] * len(attempt.statuses)
            if is_done and (not faults or fault is None or not attempt.happened):
                break
            if fault is None and not is_done:
                self._remedy()
        if is_done:
            self._compare()
        else:
            self._problem(LOST, f'not finished after {MAX_TRIES} tries')
        if (self.folder / damage.CANARY).exists():
            self._problem(EXECUTED, 'code of a file ran')
        return self.outcome

    def _problem(self, column: str, sentence: str) -> None:
        self.outcome.problems.append((column, sentence))

    def _start(self, number: int, fault: Fault | None) -> Try:
        case = self.case
        line = command_line(self.folder, case.packed, case.workers, resume=number > 0)
        if case.real:
            return real_commands.run(
                line, self.folder, case.world, fault, str(number), self.references.real_seconds
            )
        counts = self.references.counts(case)
        return Ranks(
            line,
            self.folder,
            case.world,
            str(number),
            fault,
            counts,
            self.clock_is_back,
            self.has_tmpfs,
        ).run()

    def _check_messages(self, number: int, attempt: Try, fault: Fault | None) -> None:
        """Whatever stops a try must be reported in one sentence with a remedy."""
        allowed = [0, 1]
        if fault is not None and fault.kind == 'signal':
            allowed.append(75)
        for rank, (status, output) in enumerate(zip(attempt.statuses, attempt.outputs)):
            where = f'try {number}, rank {rank}'
            if status == -9 and (
                attempt.hung or (fault is not None and (is_a_kill(fault) or fault.kind == 'freeze'))
            ):
                continue
            if self.case.real and allowed[-1] == 75 and status < 0 and not output.strip():
                continue  # the interpreter was hit before the first line of train.py
            if status not in allowed:
                self._problem(UNCLEAR, f'{where}: exit status {status}')
            # Messages of torchrun itself are not ours.
            is_ours = not self.case.real or self.case.world == 1
            for problem in message_problems(status if is_ours else 0, output):
                self._problem(UNCLEAR, f'{where}: {problem}')
        if (
            fault is not None
            and fault.kind in ('kill', 'freeze')
            and not fault.everywhere
            and not self.case.real
            and 1 in attempt.statuses
        ):
            others = [output for rank, output in enumerate(attempt.outputs) if rank != fault.rank]
            if not any(f'rank {fault.rank}' in output for output in others):
                self._problem(UNCLEAR, f'try {number}: rank {fault.rank} is not named')

    def _after(self, fault: Fault, attempt: Try) -> None:
        """Check what was lost, and damage files while nothing is running."""
        if self.has_tmpfs:
            free_space(self.work)
        before, self.kept = self.kept, self._newest()
        if fault.kind not in DISK and self.kept < max(before, attempt.done - INTERVAL):
            self._problem(
                LOST,
                f'iteration {attempt.done} was reached and {before} was saved before; the '
                f'newest checkpoint is of iteration {self.kept}',
            )
        if fault.kind in CLOCK:
            damage.advance_times(self.work)
            self.clock_is_back = True
        elif attempt.hit:
            self.outcome.data_changed = True
            self.bad_images += map(Path, attempt.hit)
        elif fault.kind in FILES:
            victim = damage.find_victim(fault, self.folder)
            self.backup = victim.read_bytes() if victim and victim.is_file() else None
            self.damaged_from = len(self.outcome.tries)
            self.victim = damage.damage_file(fault, self.folder)
            self.kept = 0 if 'checkpoint' in fault.victim else self.kept
            if self.victim is not None and fault.victim in ('image', 'packed images'):
                self.outcome.data_changed = True
                if fault.kind == 'cut' and fault.victim == 'image':
                    self.bad_images.append(self.victim)

    def _newest(self) -> int:
        """Iteration of the newest checkpoint that PyTorch can read; 0 if there is none."""
        steps = [0]
        for path in self.work.glob('iter_*.pth'):
            try:
                steps.append(torch.load(path, weights_only=True)['meta']['iter'])
            except Exception:  # damaged
                continue
        return max(steps)

    def _remedy(self) -> None:
        """Do what a user does after a refusal: restore or remove the damaged file."""
        if self.was_remedied or self.victim is None:
            return
        self.was_remedied = True
        last = without_logs(self.outcome.tries[-1].outputs[0])[-3000:]
        if self.victim.name not in last and str(self.work) not in last:
            self._problem(UNCLEAR, f'{self.victim.name} is not named in the refusal')
        if self.victim.suffix == '.pth' and self.victim.parent == self.work:
            shutil.rmtree(self.work)  # the only checkpoint: train in another folder
        elif self.victim.suffix in ('.npy', '.npz'):
            self.victim.unlink(missing_ok=True)
        elif self.backup is not None:
            self.victim.write_bytes(self.backup)
            if not any(attempt.done for attempt in self.outcome.tries[self.damaged_from :]):
                self.outcome.data_changed = False  # no step used it

    def _compare(self) -> None:
        if self.bad_images and self.outcome.data_changed and self._is_as_uninterrupted():
            self.bad_images = set()  # a second read succeeded
        if not self.outcome.data_changed:
            reference = self.references.result(self.case.world, self.case.packed)
            try:
                assert_same(_result(self.work), reference)
            except AssertionError as error:
                self._problem(LOST, f'the result differs from the uninterrupted run: {error}')
            except Exception as error:
                self._problem(LOST, f'no last checkpoint: {type(error).__name__}: {error}')
        log = '\n'.join(output for attempt in self.outcome.tries for output in attempt.outputs)
        for path in {path for path in self.bad_images if path.name not in log}:
            self._problem(UNCLEAR, f'{path.name} could not be read and is not named anywhere')
        left = sorted({path.name for pattern in _LEFTOVERS for path in self.work.glob(pattern)})
        if any(fault.kind in DISK for fault in self.case.faults):
            left = [name for name in left if name != '.lock']  # it could not be deleted
        left += [
            path.name
            for path in self.work.glob('iter_*.pth.json')
            if not path.with_suffix('').exists()
        ]
        if left:
            self._problem(LEFTOVERS, ', '.join(left))

    def _is_as_uninterrupted(self) -> bool:
        try:
            assert_same(
                _result(self.work), self.references.result(self.case.world, self.case.packed)
            )
        except Exception:
            return False
        return True


def _result(work: Path) -> dict:
    """Checkpoint content that must be equal in all runs, without the file names of the case."""
    checkpoint = saved(work, ITERS)
    checkpoint['run_state'] = {
        key: value for key, value in checkpoint['run_state'].items() if key != 'neighbors'
    }
    return checkpoint
